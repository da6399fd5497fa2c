/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What lwIP asks of its platform, and what drives it.
 *
 * lwIP runs on loop 0 only, without threads. Frames come in from the cards' pollers, streams are
 * used from coroutines, lwIP's timers run from one loop timer that is set to the earliest of them.
 * At the end of each turn the hook below does what is cheaper done once: output of all connections
 * that have something to say, then one kick per card. So the replies of one turn leave together, in
 * super-segments, and acknowledgements ride on them.
 *
 *     turn:  frames in -> lwIP -> streams wake | coroutines read, write | hook: output, kick
 *
 * Memory. Headers are read by the card, so mem_malloc takes from pools (which are DMA memory) and
 * not from lwIP's heap; three sizes cover what lwIP asks for, and no request of a peer can fragment
 * them. A word before the memory tells the pool. When a pool is empty lwIP gets NULL and tries
 * again later, as it is made to.
 */
#include "net/lwip_net.h"

#include <string.h>

#include "lwip/init.h"
#include "lwip/sys.h"
#include "lwip/timeouts.h"

/* ---- Memory ---- */

struct mem_head {
    struct pool *pool;
    uint64_t pad; /* keeps 16-byte alignment */
};

/* A header in front of referenced payload, an acknowledgement with all options. */
static struct pool small_pool =
    POOL("lwip-header", POOL_RANK_DRIVER, 192, .min = 320, .max = 1024, .weight = 1);
/* A frame: DHCP, neighbour discovery, echo. */
static struct pool frame_pool =
    POOL("lwip-frame", POOL_RANK_DRIVER, 1728, .min = 12, .max = 32, .weight = 1);
/* The rest of a super-segment that was cut because the peer shrank its window (P3);
 * cutting that again takes a second. */
static struct pool big_pool =
    POOL("lwip-big", POOL_RANK_DRIVER, 65536 + 512, .min = 2, .max = 4, .weight = 1);
REGISTER(pool, small_pool);
REGISTER(pool, frame_pool);
REGISTER(pool, big_pool);

void *net_mem_get(size_t n)
{
    n += sizeof(struct mem_head);
    struct pool *p = n <= small_pool.size   ? &small_pool
                     : n <= frame_pool.size ? &frame_pool
                                            : &big_pool;
    if (unlikely(n > p->size))
        return NULL;
    struct mem_head *h = pool_try_get(p, NULL);
    if (unlikely(!h))
        return NULL;
    h->pool = p;
    return h + 1;
}

void *net_mem_get_zeroed(size_t count, size_t n)
{
    void *p = count && n > SIZE_MAX / count ? NULL : net_mem_get(count * n);
    if (p)
        memset(p, 0, count * n);
    return p;
}

void net_mem_put(void *p)
{
    struct mem_head *h = (struct mem_head *)p - 1;
    pool_put(h->pool, NULL, h);
}

/* ---- Checksum ---- */

/* A sum of 64-bit words with end-around carry folds to the sum of 16-bit words. */
uint64_t net_sum(const void *data, size_t len)
{
    const uint8_t *p = data;
    unsigned __int128 acc = 0;
    uint64_t w[4];
    for (; len >= sizeof(w); len -= sizeof(w), p += sizeof(w)) {
        memcpy(w, p, sizeof(w));
        acc += w[0];
        acc += w[1];
        acc += w[2];
        acc += w[3];
    }
    for (; len >= 8; len -= 8, p += 8) {
        memcpy(w, p, 8);
        acc += w[0];
    }
    w[0] = 0;
    memcpy(w, p, len);
    acc += w[0];
    uint64_t high = (uint64_t)(acc >> 64), low = (uint64_t)acc;
    return (low & 0xffffffff) + (low >> 32) + high;
}

uint16_t net_chksum(const void *data, int len)
{
    return net_fold(net_sum(data, (size_t)len));
}

/* ---- Time, chance, assertions ---- */

u32_t sys_now(void)
{
    return (u32_t)(board_clock_ns() / 1000000);
}

uint32_t net_random(void)
{
    uint32_t r;
    board_entropy(&r, sizeof(r));
    return r;
}

_Noreturn void net_assert_failed(const char *message, const char *file, int line)
{
    panic("lwip: %s (%s:%d)", message, file, line);
}

/* ---- Turns and timers ---- */

static struct {
    bool started, changed;
    struct timer timer;
    struct turn_hook hook;
} port;

void net_timers_changed(void)
{
    port.changed = true;
}

static void timer_fired(struct timer *t)
{
    (void)t;
    net_before_timers();
    sys_check_timeouts();
    port.changed = true;
}

static void set_timer(void)
{
    u32_t ms = sys_timeouts_sleeptime();
    if (ms == SYS_TIMEOUTS_SLEEPTIME_INFINITE)
        timer_cancel(&port.timer);
    else
        timer_set(&port.timer, loop_now() + ms * 1000000ull);
}

static void turn_end(struct turn_hook *h)
{
    (void)h;
    tcp_streams_flush();
    net_tx_turn_end();
    if (port.changed) {
        port.changed = false;
        set_timer();
    }
}

void net_start(void)
{
    if (port.started)
        return;
    port.started = true;
    lwip_init();
    net_ext_wire = tcp_ext_arg_alloc_id();
    timer_init(&port.timer, timer_fired);
    port.hook.run = turn_end;
    turn_hook_add(&port.hook);
    port.changed = true;
}
