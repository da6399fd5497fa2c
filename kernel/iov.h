/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef KERNEL_IOV_H
#define KERNEL_IOV_H
/*
 * Scatter-gather lists: borrowed, immutable, sliceable. `struct iov` is a small value that points
 * to the submitter's segments; slicing makes another value and copies nothing. The segments and the
 * memory belong to the submitter until the request completes. Lengths in bytes. Any context.
 */
#include "kernel/compiler.h"

struct seg {
    void *base;
    size_t len; /* > 0 */
};
struct iov {
    const struct seg *seg; /* first segment with bytes of this list */
    size_t skip;           /* bytes of seg[0] before the list begins, < seg[0].len */
    size_t len;            /* bytes in all */
};

/* One contiguous piece; `seg` must live as long as the iov. */
static inline struct iov iov_one(struct seg *seg, void *base, size_t len)
{
    seg->base = base;
    seg->len = len;
    return (struct iov){.seg = seg, .skip = 0, .len = len};
}
/* Bytes [off, off + len) of `v`; off + len <= v.len is the caller's duty. */
static inline struct iov iov_slice(struct iov v, size_t off, size_t len)
{
    off += v.skip;
    if (len)
        while (off >= v.seg->len)
            off -= (v.seg++)->len;
    return (struct iov){.seg = v.seg, .skip = off, .len = len};
}
/* Walk: each step gives the next contiguous piece, false at the end.
 *     struct iov w = v; void *p; size_t n;
 *     while (iov_next(&w, &p, &n)) ... */
static inline bool iov_next(struct iov *w, void **base, size_t *len)
{
    if (!w->len)
        return false;
    size_t n = w->seg->len - w->skip;
    *base = (char *)w->seg->base + w->skip;
    *len = n < w->len ? n : w->len;
    w->len -= *len;
    w->seg++;
    w->skip = 0;
    return true;
}
unsigned iov_count(struct iov v); /* number of contiguous pieces */
void iov_copy_out(void *dst, struct iov v, size_t off,
                  size_t len); /* from the list to flat memory */
void iov_copy_in(struct iov v, size_t off, const void *src,
                 size_t len);                  /* from flat memory into the list */
void iov_copy(struct iov dst, struct iov src); /* MIN(dst.len, src.len) bytes */
void iov_fill(struct iov v, size_t off, int byte, size_t len);
bool iov_is_zero(struct iov v);
#endif
