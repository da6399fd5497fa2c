/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * virtio-console ports as streams: opening, closing and opening again by the host, flow control in
 * both directions, watchers before and after the port, ports that come and go, a host that sends
 * nonsense; and virtio-rng.
 */
#include "tests/unit/support.h"

#include "kernel/kernel.h"
#include "kernel/port.h"
#include "virtio/device/models.h"
#include <stdlib.h>
#include <string.h>

static struct vconsole host;

static struct seen {
    unsigned opened, closed;
    struct stream *stream;
    struct port *port;
} seen;

static void on_port(void *ctx, struct port *p, bool connected)
{
    struct seen *s = ctx;
    s->port = p;
    if (connected) {
        s->opened++;
        s->stream = p->stream;
        assert_non_null(p->stream);
    } else {
        s->closed++;
        assert_null(p->stream);
    }
    assert_int_equal(p->host_connected, connected);
}

static void co_until(const unsigned *what, unsigned count)
{
    while (*what < count)
        co_sleep_ns(100000);
}

static void set_kind(struct vdev *v, unsigned kind)
{
    v->legacy = kind == 2;
    if (kind == 1)
        v->offered |= 1ull << VIRTIO_F_RING_PACKED;
    if (kind == 2)
        v->offered &= UINT32_MAX;
}

/* Each test has a port name of its own: watches are for ever. In turn the rings are split, packed, and
 * those of a legacy device. */
static void co_begin(const char *name)
{
    static unsigned kind;
    seen = (struct seen){0};
    vconsole_init(&host);
    set_kind(&host.v, kind++ % 3);
    vconsole_add(&host, 1, name);
    assert_int_equal(co_vdev_attach(&host.v, "loop con"), 0);
}

static void co_end(void)
{
    co_vdev_detach(&host.v);
}

static void co_got(unsigned port, size_t n)
{
    while (host.port[port].ngot < n)
        co_sleep_ns(100000);
}

/* ---- Open and close -------------------------------------------------------------------------- */

static void co_session(unsigned nth)
{
    uint8_t b[5];
    vconsole_connect(&host, 1, true);
    co_until(&seen.opened, nth);
    assert_string_equal(seen.stream->peer, seen.port->name);
    host.port[1].ngot = 0;
    assert_int_equal(co_stream_write(seen.stream, "hello", 5), 0);
    co_got(1, 5);
    assert_memory_equal(host.port[1].got, "hello", 5);
    vconsole_send(&host, 1, "abcde", 5);
    assert_int_equal(co_stream_read(seen.stream, b, 5, STREAM_FOREVER), 0);
    assert_memory_equal(b, "abcde", 5);
    vconsole_send(&host, 1, "last", 4);
    vconsole_connect(&host, 1, false);
    co_until(&seen.closed, nth);
    assert_int_equal(co_stream_read(seen.stream, b, 4, STREAM_FOREVER), 0);
    assert_memory_equal(b, "last", 4); /* what came before the end can be read, then */
    assert_int_equal(co_stream_wait(seen.stream, 1, STREAM_FOREVER), SR_EOF);
    assert_int_equal(co_stream_write(seen.stream, "x", 1), SR_EIO);
    co_stream_close(seen.stream);
}

static void co_open_close(void *arg)
{
    (void)arg;
    assert_int_equal(port_watch("first", on_port, &seen), 0);
    assert_int_equal(port_watch("first", on_port, &seen), SR_EBUSY);
    co_begin("first");
    assert_null(port_find("second"));
    for (unsigned i = 1; i <= 3; i++)
        co_session(i);
    assert_ptr_equal(port_find("first"), seen.port);
    co_end();
    assert_null(port_find("first"));
}

/* The port is there and open before anybody watches it; nobody's bytes are lost. */
static void co_late_watch(void *arg)
{
    uint8_t b[4];
    (void)arg;
    co_begin("late");
    vconsole_connect(&host, 1, true);
    vconsole_send(&host, 1, "wait", 4);
    while (!port_find("late"))
        co_sleep_ns(100000);
    co_sleep_ns(1000000);
    assert_false(host.port[1].guest_open);
    assert_int_equal(port_watch("late", on_port, &seen), 0);
    co_until(&seen.opened, 1);
    assert_int_equal(co_stream_read(seen.stream, b, 4, STREAM_FOREVER), 0);
    assert_memory_equal(b, "wait", 4);
    co_stream_close(seen.stream);
    vconsole_connect(&host, 1, false);
    co_until(&seen.closed, 1);
    co_end();
}

/* ---- Flow ------------------------------------------------------------------------------------ */

#define BULK 300000u
static uint8_t bulk[BULK];

static void co_receive(void *arg)
{
    static struct stream_loan loan[2];
    (void)arg;
    for (unsigned i = 0; i < BULK; i++)
        bulk[i] = (uint8_t)rand();
    assert_int_equal(port_watch("recv", on_port, &seen), 0);
    co_begin("recv");
    vconsole_connect(&host, 1, true);
    co_until(&seen.opened, 1);
    struct stream *s = seen.stream;
    vconsole_send(&host, 1, bulk, BULK);
    co_sleep_ns(5000000);
    assert_true(host.port[1].nout > BULK / 2); /* flow control: the rest stays with the host */
    assert_int_equal(co_stream_wait(s, s->max_wait, STREAM_FOREVER), 0);
    size_t at = 0;
    while (at < BULK) {
        assert_int_equal(co_stream_wait(s, 1, STREAM_FOREVER), 0);
        size_t before = at;
        for (unsigned i = 0; i < 2; i++) { /* two loans, given back in the wrong order */
            stream_borrow(s, 1 + (size_t)rand() % 5000, &loan[i]);
            size_t sum = 0;
            for (unsigned k = 0; k < loan[i].nseg; k++) {
                assert_memory_equal(loan[i].seg[k].base, bulk + at, loan[i].seg[k].len);
                at += loan[i].seg[k].len;
                sum += loan[i].seg[k].len;
            }
            assert_int_equal(sum, loan[i].len);
        }
        stream_release(&loan[1]);
        co_sleep_ns(20000); /* the room of the first one is not free yet */
        if (loan[0].nseg)
            assert_memory_equal(loan[0].seg[0].base, bulk + before, loan[0].seg[0].len);
        stream_release(&loan[0]);
    }
    assert_int_equal(at, BULK);
    uint64_t deadline = board_clock_ns() + 2000000;
    assert_int_equal(co_stream_wait(s, 1, deadline), SR_ETIMEDOUT);
    stream_abort(s);
    assert_int_equal(co_stream_wait(s, 1, STREAM_FOREVER), SR_ECANCELED);
    co_stream_close(s);
    co_end();
}

static unsigned released, finished;
static int send_rc[2];
static void release(struct stream_hold *h)
{
    (void)h;
    released++;
}

static void co_sender(void *arg)
{
    unsigned i = (unsigned)(uintptr_t)arg;
    static uint8_t block[2][30000];
    struct seg seg[3] = {{block[i], 1}, {block[i] + 1, 14999}, {block[i] + 15000, 15000}};
    struct stream_hold hold = {.release = release};
    memset(block[i], 'a' + (int)i, sizeof(block[i]));
    struct iov v = {.seg = seg, .len = 30000};
    send_rc[i] = co_stream_send(seen.stream, v, &hold);
    finished++;
}

static void start_senders(void)
{
    static struct co_start start[2];
    released = finished = 0;
    for (unsigned i = 0; i < 2; i++)
        co_start(&start[i], co_sender, (void *)(uintptr_t)i);
}

static void co_send(void *arg)
{
    (void)arg;
    assert_int_equal(port_watch("send", on_port, &seen), 0);
    co_begin("send");
    vconsole_connect(&host, 1, true);
    co_until(&seen.opened, 1);
    host.stuck = true;
    start_senders();
    co_sleep_ns(5000000);
    assert_int_equal(finished, 0); /* the host takes nothing */
    vconsole_unstick(&host);
    co_until(&finished, 2);
    assert_int_equal(send_rc[0] | send_rc[1], 0);
    assert_int_equal(released, 2);
    co_got(1, 60000);
    for (unsigned i = 0; i < 60000; i++) /* one after the other, not mixed */
        assert_int_equal(host.port[1].got[i], i < 30000 ? 'a' : 'b');
    host.stuck = true;
    start_senders();
    co_sleep_ns(1000000);
    vconsole_connect(&host, 1, false); /* who waits for room hears of it */
    co_until(&finished, 2);
    assert_int_equal(send_rc[0], SR_EIO);
    assert_int_equal(send_rc[1], SR_EIO);
    assert_int_equal(released, 2);
    co_stream_close(seen.stream);
    co_end();
}

/* ---- The host's mistakes --------------------------------------------------------------------- */

static void co_nonsense(void *arg)
{
    static const char longest[64 + 1] =
        "0123456789012345678901234567890123456789012345678901234567890123";
    (void)arg;
    assert_int_equal(port_watch("odd", on_port, &seen), 0);
    co_begin("odd");
    co_sleep_ns(1000000);
    static const unsigned ports[] = {0, 1, 3, 4, 8, 1000, UINT32_MAX};
    for (unsigned event = 0; event < 12; event++)
        for (unsigned i = 0; i < ARRAY_LEN(ports); i++)
            for (unsigned value = 0; value < 2; value++)
                if (event != VIRTIO_CONSOLE_DEVICE_REMOVE)
                    vconsole_control(&host, ports[i], event, value, "odd", 3);
    vconsole_control(&host, 2, VIRTIO_CONSOLE_PORT_NAME, 1, NULL, 0);
    vconsole_control(&host, 2, VIRTIO_CONSOLE_PORT_NAME, 1, "\0\0\0", 3);
    vconsole_control(&host, 2, VIRTIO_CONSOLE_PORT_NAME, 1, "a\0b", 3);
    vconsole_control(&host, 2, VIRTIO_CONSOLE_PORT_NAME, 1, longest, 64);
    co_sleep_ns(5000000);
    assert_false(host.v.dev.broken);
    assert_null(port_find("a"));
    assert_null(port_find(longest));
    assert_true(queue_empty(&host.events));
    assert_int_equal(seen.opened, 1);
    co_stream_close(seen.stream);
    vconsole_connect(&host, 1, false);
    vconsole_connect(&host, 1, true);
    co_until(&seen.opened, 2);
    vconsole_control(&host, 1, VIRTIO_CONSOLE_DEVICE_REMOVE, 1, NULL, 0);
    co_until(&seen.closed, seen.opened);
    co_stream_close(seen.stream);
    co_end();
}

/* Its device breaks: streams end, readers hear of it. */
static void co_lost(void *arg)
{
    (void)arg;
    assert_int_equal(port_watch("lost", on_port, &seen), 0);
    co_begin("lost");
    vconsole_connect(&host, 1, true);
    co_until(&seen.opened, 1);
    host.v.status |= VIRTIO_STATUS_NEEDS_RESET;
    vdev_config_changed(&host.v);
    assert_int_equal(co_stream_wait(seen.stream, 1, STREAM_FOREVER), SR_EOF);
    assert_int_equal(seen.closed, 1);
    co_stream_close(seen.stream);
    co_end();
    vconsole_init(&host);
    host.v.offered &= ~(1ull << VIRTIO_CONSOLE_F_MULTIPORT);
    assert_int_equal(co_vdev_attach(&host.v, "loop con"), SR_ENOTSUP);
}

/* ---- Random bytes ---------------------------------------------------------------------------- */

static void co_rng(void *arg)
{
    static struct vrng r;
    (void)arg;
    for (unsigned kind = 0; kind < 3; kind++) {
        vrng_init(&r);
        set_kind(&r.v, kind);
        assert_int_equal(co_vdev_attach(&r.v, "loop rng"), 0);
        while (r.given < 64)
            co_sleep_ns(100000);
        assert_int_equal(r.v.interrupts, 0);
        co_vdev_detach(&r.v);
    }
    vrng_init(&r);
    r.silent = true;
    assert_int_equal(co_vdev_attach(&r.v, "loop rng"), 0);
    co_vdev_detach(&r.v);
}

#define TEST(name)                        \
    static void test_##name(void **state) \
    {                                     \
        (void)state;                      \
        test_co_run(co_##name, NULL);     \
    }
TEST(open_close)
TEST(late_watch)
TEST(receive)
TEST(send)
TEST(nonsense)
TEST(lost)
TEST(rng)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open_close), cmocka_unit_test(test_late_watch),
        cmocka_unit_test(test_receive),    cmocka_unit_test(test_send),
        cmocka_unit_test(test_nonsense),   cmocka_unit_test(test_lost),
        cmocka_unit_test(test_rng),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
