/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Fault points, and the control path's allocator that has one inside. Arming is for tests: one
 * loop.
 */
#include "kernel/fault.h"

#include <stdlib.h>
#include <string.h>

#ifdef SR_FAULTS
#include "kernel/trace.h"

static struct point {
    uint64_t asked, nth;
    bool persistent, fired;
} points[FAULT_KINDS];

bool fault(enum fault_kind k)
{
    struct point *p = &points[k];
    uint64_t n = ++p->asked;
    if (likely(!p->nth) || n < p->nth || (n > p->nth && !p->persistent))
        return false;
    p->fired = true;
    TRACE(fault, k, n);
    return true;
}

void fault_arm(enum fault_kind k, uint64_t nth, bool persistent)
{
    points[k] = (struct point){.nth = nth, .persistent = persistent};
}

uint64_t fault_asked(enum fault_kind k)
{
    return points[k].asked;
}

bool fault_fired(enum fault_kind k)
{
    return points[k].fired;
}
#endif

void *sr_malloc(size_t n)
{
    return fault(FAULT_ALLOC) ? NULL : malloc(n ? n : 1);
}

void *sr_calloc(size_t n, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes))
        return NULL;
    void *p = sr_malloc(bytes);
    return p ? memset(p, 0, bytes) : NULL;
}

char *sr_strdup(const char *s)
{
    size_t n = strlen(s) + 1;
    char *p = sr_malloc(n);
    return p ? memcpy(p, s, n) : NULL;
}

void sr_free(void *p)
{
    free(p);
}
