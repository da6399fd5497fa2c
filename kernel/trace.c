/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One ring per loop. Loop 0's is static, so that tracing works before there is memory; those of
 * other loops come from the page allocator when the loops are made.
 */
#include "boot/arch.h"
#include "kernel/board.h"
#include "kernel/loop.h"
#include "kernel/page.h"
#include "kernel/trace.h"

#include <stdio.h>

struct ring {
    uint32_t next; /* sequence number of the next record */
    struct trace_record record[TRACE_RECORDS];
};
static struct ring ring0;
static struct ring *rings[MAX_LOOPS] = {&ring0};

static const char *const names[] = {
#define TRACE_NAME(e) #e,
    TRACE_EVENTS(TRACE_NAME)
#undef TRACE_NAME
};

void trace_init(unsigned loops)
{
    for (unsigned i = 1; i < loops; i++)
        if (!rings[i])
            rings[i] = page_alloc_zeroed(sizeof(struct ring));
}

void trace_put(enum trace_event e, uint64_t a, uint64_t b)
{
    struct ring *r = rings[loop_id()];
    if (unlikely(!r))
        return;
    uint32_t seq = r->next++;
    r->record[seq % TRACE_RECORDS] = (struct trace_record){arch_cycles(), e, seq, a, b};
}

static void dump_record(unsigned loop, const struct trace_record *t)
{
    char line[128];
    const char *name = t->event < ARRAY_LEN(names) ? names[t->event] : "?";
    int n = snprintf(line, sizeof(line), "trace %u.%u %llu %s %#llx %#llx\n", loop,
                     (unsigned)t->seq, (unsigned long long)t->time, name, (unsigned long long)t->a,
                     (unsigned long long)t->b);
    board_console_write(line, MIN((size_t)n, sizeof(line) - 1));
}

void trace_dump(unsigned last)
{
    for (unsigned i = 0; i < MAX_LOOPS; i++) {
        const struct ring *r = rings[i];
        if (!r)
            continue;
        uint32_t n = MIN(MIN(last, r->next), (uint32_t)TRACE_RECORDS);
        for (uint32_t seq = r->next - n; seq != r->next; seq++)
            dump_record(i, &r->record[seq % TRACE_RECORDS]);
    }
}
