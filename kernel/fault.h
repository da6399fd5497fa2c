/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef KERNEL_FAULT_H
#define KERNEL_FAULT_H
/*
 * Fault points: every place that can fail asks one, so that tests make each error path run. In
 * builds without SR_FAULTS they are constant false and vanish. Armed, the nth question of its kind
 * (counted from 1) answers true, once, or from then on.
 *
 *     if (fault(FAULT_ALLOC)) return NULL;
 */
#include "kernel/compiler.h"

enum fault_kind { FAULT_ALLOC, FAULT_READ, FAULT_WRITE, FAULT_FLUSH, FAULT_KINDS };
#ifdef SR_FAULTS
bool fault(enum fault_kind k);
void fault_arm(enum fault_kind k, uint64_t nth, bool persistent); /* nth 0: disarm */
uint64_t fault_asked(enum fault_kind k);                          /* questions since the last arm */
bool fault_fired(enum fault_kind k);
#else
static inline bool fault(enum fault_kind k)
{
    (void)k;
    return false;
}
#endif
/* malloc and friends for the control path, with the fault point inside. */
void *sr_malloc(size_t n);
void *sr_calloc(size_t n, size_t size);
char *sr_strdup(const char *s);
void sr_free(void *p);
#endif
