/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernel/stream.h"

int co_stream_read(struct stream *s, void *dst, size_t n, uint64_t deadline_ns)
{
    for (char *to = dst; n;) {
        size_t piece = MIN(n, MIN(s->max_wait, STREAM_WAIT_SURE));
        int e = co_stream_wait(s, piece, deadline_ns);
        if (e)
            return e;
        s->ops->copy(s, to, piece, true);
        to += piece;
        n -= piece;
    }
    return 0;
}

/* The loan is large, and is given back before anybody else can run. */
int co_stream_skip(struct stream *s, uint64_t n, uint64_t deadline_ns)
{
    static struct stream_loan loan;
    while (n) {
        int e = co_stream_wait(s, 1, deadline_ns);
        if (e)
            return e;
        stream_borrow(s, (size_t)MIN(n, s->ops->available(s)), &loan);
        n -= loan.len;
        stream_release(&loan);
    }
    return 0;
}
