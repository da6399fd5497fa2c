/* SPDX-License-Identifier: BSD-2-Clause */
/* Reading and skipping on a stream that has a small window and ends when told to. */
#include "tests/unit/support.h"

#include <string.h>

#include "kernel/error.h"
#include "kernel/log.h"
#include "kernel/nic.h"
#include "kernel/stream.h"

#define WINDOW 16u

struct fake {
    struct stream stream;
    uint8_t next;     /* the bytes count up */
    size_t here, end; /* in the window; until the stream ends */
    unsigned loans;
};

static struct fake *of(struct stream *s)
{
    return container_of(s, struct fake, stream);
}

static int co_wait(struct stream *s, size_t n, uint64_t deadline_ns)
{
    struct fake *f = of(s);
    assert_true(n > 0 && n <= WINDOW);
    if (deadline_ns == 0)
        return SR_ETIMEDOUT;
    co_reschedule();
    size_t more = MIN(f->end, WINDOW - f->here);
    f->here += more;
    f->end -= more;
    return f->here < n ? SR_EOF : 0;
}

static size_t available(struct stream *s)
{
    return of(s)->here;
}

static void copy(struct stream *s, void *dst, size_t n, bool consume)
{
    struct fake *f = of(s);
    assert_true(consume && n <= f->here);
    for (uint8_t *p = dst; n; n--, f->here--)
        *p++ = f->next++;
}

static void borrow(struct stream *s, size_t n, struct stream_loan *loan)
{
    struct fake *f = of(s);
    assert_true(n > 0 && n <= f->here);
    *loan = (struct stream_loan){.stream = s, .len = n};
    f->here -= n;
    f->next = (uint8_t)(f->next + n);
    f->loans++;
}

static void release(struct stream_loan *loan)
{
    of(loan->stream)->loans--;
}

static const struct stream_ops fake_ops = {.name = "fake",
                                           .co_wait = co_wait,
                                           .available = available,
                                           .copy = copy,
                                           .borrow = borrow,
                                           .release = release};

static void co_body(void *arg)
{
    struct fake f = {.stream = {.ops = &fake_ops, .max_wait = WINDOW}, .end = 300};
    uint8_t b[100];
    (void)arg;
    assert_int_equal(co_stream_read(&f.stream, b, 0, 0), 0);
    assert_int_equal(co_stream_read(&f.stream, b, 1, 0), SR_ETIMEDOUT);
    assert_int_equal(co_stream_read(&f.stream, b, sizeof(b), STREAM_FOREVER), 0);
    for (unsigned i = 0; i < sizeof(b); i++)
        assert_int_equal(b[i], i);
    assert_int_equal(co_stream_skip(&f.stream, 0, 0), 0);
    assert_int_equal(co_stream_skip(&f.stream, 101, STREAM_FOREVER), 0);
    assert_int_equal(f.loans, 0);
    assert_int_equal(co_stream_read(&f.stream, b, 1, STREAM_FOREVER), 0);
    assert_int_equal(b[0], 201);
    assert_int_equal(co_stream_skip(&f.stream, 1000, STREAM_FOREVER), SR_EOF);
    assert_int_equal(co_stream_read(&f.stream, b, 1, STREAM_FOREVER), SR_EOF);
    assert_int_equal(f.loans, 0);
}

static void test_read_and_skip(void **state)
{
    (void)state;
    test_co_run(co_body, NULL);
}

static void test_nics(void **state)
{
    (void)state;
    static struct nic a = {.mtu = 1500}, b = {.mtu = 9000};
    unsigned n = nic_count();
    nic_register(&a);
    nic_register(&b);
    assert_int_equal(nic_count(), n + 2);
    assert_ptr_equal(nic_find(n), &a);
    assert_ptr_equal(nic_find(n + 1), &b);
    assert_null(nic_find(n + 2));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read_and_skip),
        cmocka_unit_test(test_nics),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
