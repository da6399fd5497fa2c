/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/sim/run.h"

struct record the_record;

void run_start(const struct bench *b, uint64_t seed, bool frantic, unsigned latency_ns)
{
    record_reset(&the_record);
    bench_put(b);
    for (unsigned m = 0; m < MEDIA; m++) {
        media[m].record = &the_record;
        media[m].latency_ns = latency_ns;
    }
    sim_reseed(seed, frantic);
}

void run_stop(void)
{
    for (unsigned m = 0; m < MEDIA; m++) {
        media[m].record = NULL;
        media[m].latency_ns = 0;
    }
}

/* Closing promises what a flush does, but not over a file that cannot flush any more. */
static int co_close(struct volume *v)
{
    bool lost = false;
    co_volume_close(v);
    for (unsigned m = 0; m < MEDIA; m++)
        lost |= media[m].lost;
    return lost ? SR_EIO : 0;
}

int co_run_close(struct volume *v)
{
    uint32_t op = record_call(&the_record, (struct op){.kind = OP_REOPEN});
    record_return(&the_record, op, co_close(v));
    return 0;
}

int co_run_reopen(const struct bench *b, struct volume *v)
{
    struct error err = {0};
    uint32_t op = record_call(&the_record, (struct op){.kind = OP_REOPEN});
    int closed = co_close(v);
    int r = co_volume_open(v, b->open, b->s->restart_safe, &err);
    record_return(&the_record, op, r ? r : closed);
    if (r)
        sim_fail("does not open again: %s\n%s", err.msg, sim_console());
    return r;
}

/* Drivers need not compress, and a disk may be full. */
static bool may_refuse(const struct subject *s, const struct op *o)
{
    return (s->file_size && o->result == SR_ENOSPC) ||
           (o->kind == OP_COMPRESSED && o->result != SR_ENOSPC);
}

static bool check_results(const struct run *run)
{
    for (size_t i = 0; i < the_record.nops; i++) {
        const struct op *o = &the_record.ops[i];
        stats.refused += o->result != 0;
        if (!o->result || may_refuse(run->bench->s, o) || run->faulty)
            continue;
        sim_fail("operation %zu failed without a reason: %s\n%s", i, sr_strerror(o->result),
                 sim_console());
        return false;
    }
    return true;
}

bool co_run_verify(const struct run *run)
{
    stats.runs++;
    stats.operations += the_record.nops;
    const char *leak = sim_leaks(false);
    if (leak) {
        sim_fail("after the run, %s\n", leak);
        return false;
    }
    return check_results(run) && co_verify_run(run);
}
