/* SPDX-License-Identifier: BSD-2-Clause */
#include "kernel/iov.h"
#include "kernel/log.h"

#include <string.h>

unsigned iov_count(struct iov v)
{
    unsigned n = 0;
    void *p;
    size_t len;
    while (iov_next(&v, &p, &len))
        n++;
    return n;
}

void iov_copy_out(void *dst, struct iov v, size_t off, size_t len)
{
    char *to = dst;
    void *p;
    size_t n;
    ASSERT(range_ok(off, len, v.len));
    for (v = iov_slice(v, off, len); iov_next(&v, &p, &n); to += n)
        memcpy(to, p, n);
}

void iov_copy_in(struct iov v, size_t off, const void *src, size_t len)
{
    const char *from = src;
    void *p;
    size_t n;
    ASSERT(range_ok(off, len, v.len));
    for (v = iov_slice(v, off, len); iov_next(&v, &p, &n); from += n)
        memcpy(p, from, n);
}

void iov_copy(struct iov dst, struct iov src)
{
    void *p;
    size_t n;
    dst.len = MIN(dst.len, src.len);
    for (; iov_next(&dst, &p, &n); src = iov_slice(src, n, src.len - n))
        iov_copy_out(p, src, 0, n);
}

void iov_fill(struct iov v, size_t off, int byte, size_t len)
{
    void *p;
    size_t n;
    ASSERT(range_ok(off, len, v.len));
    for (v = iov_slice(v, off, len); iov_next(&v, &p, &n);)
        memset(p, byte, n);
}

/* Eight words at a time while there are as many; a first word that is not zero ends it at once. */
static bool all_zero(const char *p, size_t n)
{
    uint64_t w[8];
    for (; n >= sizeof(w); p += sizeof(w), n -= sizeof(w)) {
        memcpy(w, p, sizeof(w));
        if (w[0] | w[1] | w[2] | w[3] | w[4] | w[5] | w[6] | w[7])
            return false;
    }
    for (; n; p++, n--)
        if (*p)
            return false;
    return true;
}

bool iov_is_zero(struct iov v)
{
    void *p;
    size_t n;
    while (iov_next(&v, &p, &n))
        if (!all_zero(p, n))
            return false;
    return true;
}
