/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * virtio-rng (virtio 1.2, 5.4): random bytes for board_entropy. One buffer is asked for at start, and
 * waited for, a bounded time, when there is no other source: keys are made soon after. Afterwards the
 * generator behind board_entropy is fed again each RESEED_NS, so that one bad start does not last.
 * The queue is polled while a buffer is out, and never interrupts.
 */
#include "kernel/board.h"
#include "kernel/fault.h"
#include "kernel/page.h"
#include "virtio/virtio.h"

#define BYTES     64u
#define START_NS  (100ull * 1000000)
#define RESEED_NS (600ull * 1000000000)

struct rng {
    struct virtio_device *dev;
    struct virtq *q;
    uint8_t *bytes;
    bool fed;
    struct timer again;
};

static bool poll(struct poller *p);

static void ask(struct rng *r)
{
    struct virtq_chain c;
    if (r->dev->broken || !virtq_begin(r->q, &c, 1))
        return;
    virtq_in(&c, r->bytes, BYTES);
    virtq_push(r->q, &c, r);
    virtq_start(r->q, poll);
}

static bool poll(struct poller *p)
{
    struct virtq *q = virtq_of_poller(p);
    struct rng *r = q->dev->priv;
    uint16_t id;
    uint32_t len;
    if (!virtq_pop(q, &id, &len))
        return false;
    board_entropy_add(r->bytes, len);
    r->fed = true;
    poller_remove(p);
    virtio_events(q->dev); /* QEMU interrupts for the first buffer, wanted or not */
    timer_set(&r->again, board_clock_ns() + RESEED_NS);
    return true;
}

static void ask_again(struct timer *t)
{
    ask(container_of(t, struct rng, again));
}

static int co_probe(struct virtio_device *d)
{
    struct rng *r = sr_calloc(1, sizeof(*r));
    if (!r)
        return SR_ENOMEM;
    d->priv = r;
    r->dev = d;
    timer_init(&r->again, ask_again);
    r->bytes = page_alloc(BYTES);
    if (!r->bytes)
        return SR_ENOMEM;
    int rc = virtio_queue(d, 0, 1, 1, 0, &r->q);
    if (rc)
        return rc;
    r->q->quiet = true;
    virtio_ready(d);
    ask(r);
    uint8_t byte;
    uint64_t deadline = board_clock_ns() + START_NS;
    while (!r->fed && !board_entropy(&byte, 1) && !d->broken && board_clock_ns() < deadline)
        co_sleep_ns(START_NS / 1000);
    return 0;
}

static void lost(struct virtio_device *d)
{
    struct rng *r = d->priv;
    uint16_t id;
    if (!r || !r->q)
        return;
    timer_cancel(&r->again);
    (void)virtq_detach(r->q, &id);
}

static void forget(struct virtio_device *d)
{
    struct rng *r = d->priv;
    if (!r)
        return;
    if (r->bytes)
        page_free(r->bytes, BYTES);
    sr_free(r);
}

const struct virtio_driver virtio_rng_driver = {
    .name = "virtio-rng",
    .id = VIRTIO_ID_ENTROPY,
    .co_probe = co_probe,
    .lost = lost,
    .forget = forget,
};
REGISTER(virtio_driver, virtio_rng_driver);
