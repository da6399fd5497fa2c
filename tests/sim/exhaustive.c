/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Exhaustive mode: every sequence of up to three operations of
 *
 *     w  aligned write        z  write zeroes            f  flush
 *     u  unaligned write      d  discard                 r  reopen
 *     F  write with FUA       c  compressed write
 *
 * at places that are chosen for all three together:
 *
 *     d  data that are there already         n  fresh space, where nothing is mapped
 *     z  zeroes and compressed clusters
 *
 * "v3-512:wfu:dnd" writes over data, flushes, and writes (unaligned) over data again. In a sequence
 * that ends in "=" the operations are issued at once, and the order of everything is left to
 * a seed; "=2" is another seed.
 *
 * Crashes before the last operation are those of a shorter sequence, and are left to it; so each
 * crash point of all sequences together is looked at once.
 */
#include "tests/sim/run.h"

#include <stdio.h>
#include <stdlib.h>

#define MAX_OPS 3
static const char letters[] = "wuFzdcfr";

struct sequence {
    char ops[MAX_OPS + 1], places[MAX_OPS + 1];
    unsigned parallel; /* 0: one after the other; else the seed */
};

/* ---- operations ---- */

static uint64_t place(const struct subject *s, char p)
{
    uint64_t half = s->size / 2;
    return s->fresh || p == 'd' ? 0 : p == 'z' ? 2u * s->cluster : half - half % s->cluster;
}

static struct op make_op(const struct subject *s, const struct sequence *q, unsigned i)
{
    uint64_t at = place(s, q->places[i]), c = s->cluster;
    struct op o = {.kind = OP_WRITE, .seq = 0x1000 + i, .off = at, .len = c};
    switch (q->ops[i]) {
    case 'u':
        o.off = at + c / 4 + 13;
        o.len = c + 200;
        break;
    case 'F':
        o.fua = true;
        o.off = at + c / 2;
        break;
    case 'z':
        o.kind = OP_ZERO;
        o.len = 2 * c;
        break;
    case 'd':
        o.kind = OP_DISCARD;
        o.len = 2 * c;
        break;
    case 'c':
        o.kind = OP_COMPRESSED;
        break;
    case 'f':
        o = (struct op){.kind = OP_FLUSH};
        break;
    }
    return o;
}

/* ---- running ---- */

struct issued {
    struct co_start start;
    struct volume *v;
    struct op op;
    struct co_join *join;
};

static void co_issue(void *arg)
{
    struct issued *i = arg;
    co_volume_op(i->v, &the_record, i->op);
    co_join_done(i->join, 0);
}

static void co_at_once(const struct bench *b, struct volume *v, const struct sequence *q)
{
    struct issued issued[MAX_OPS];
    struct co_join join;
    co_join_init(&join);
    for (unsigned i = 0; q->ops[i]; i++) {
        issued[i] = (struct issued){.v = v, .op = make_op(b->s, q, i), .join = &join};
        co_join_add(&join);
        co_start(&issued[i].start, co_issue, &issued[i]);
    }
    co_join_wait(&join);
}

static int co_in_turn(const struct bench *b, struct volume *v, const struct sequence *q)
{
    int r = 0;
    for (unsigned i = 0; q->ops[i] && !r; i++)
        if (q->ops[i] == 'r')
            r = co_run_reopen(b, v);
        else
            co_volume_op(v, &the_record, make_op(b->s, q, i));
    return r;
}

static bool co_run_sequence(const struct bench *b, const struct sequence *q, enum effort effort)
{
    struct volume v;
    struct error err = {0};
    run_start(b, q->parallel, q->parallel, 1000);
    if (co_volume_open(&v, b->open, b->s->restart_safe, &err)) {
        sim_fail("does not open: %s\n", err.msg);
        return false;
    }
    if (q->parallel)
        co_at_once(b, &v, q);
    else if (co_in_turn(b, &v, q))
        return false;
    co_run_close(&v);
    struct run run = {
        .bench = b,
        .record = &the_record,
        .seed = q->parallel,
        .how = {.all_subsets = effort == EFFORT_LONG ? 9 : 6,
                .samples = effort == EFFORT_LONG ? 8 : 2,
                .from_op = q->parallel ? 0 : (uint32_t)strlen(q->ops) - 1},
    };
    return co_run_verify(&run);
}

static bool co_named(const struct bench *b, const struct sequence *q, enum effort effort)
{
    char seed[16] = "";
    if (q->parallel)
        snprintf(seed, sizeof(seed), "=%u", q->parallel);
    snprintf(sim_current, SIM_NAME_MAX, "%s:%s:%s%s", b->s->name, q->ops, q->places, seed);
    return co_run_sequence(b, q, effort);
}

/* ---- all of them ---- */

#define MAX_FAILURES 5 /* then there is no point in going on */

static bool enough(void)
{
    return stats.failures >= MAX_FAILURES;
}

static void set_ops(struct sequence *q, unsigned len, unsigned number)
{
    for (unsigned i = 0; i < len; i++, number /= 8)
        q->ops[i] = letters[number % 8];
    q->ops[len] = 0;
}

static void co_all(const struct bench *b, const char *places, unsigned parallel, enum effort effort)
{
    struct sequence q = {.parallel = parallel};
    unsigned most = effort == EFFORT_SHORT ? 2 : MAX_OPS;
    for (unsigned len = parallel ? 2 : 1; len <= most; len++) {
        snprintf(q.places, sizeof(q.places), "%.*s", (int)len, places);
        for (unsigned n = 0; n < 1u << 3 * len && !enough(); n++) {
            set_ops(&q, len, n);
            if (!parallel || !strchr(q.ops, 'r'))
                co_named(b, &q, effort);
        }
    }
}

bool co_exhaustive(const struct bench *b, enum effort effort)
{
    static const char *const test[] = {"ddd", "nnn", "zdn"};
    static const char *const more[] = {"zzz", "dnd", "ndn", "ndz", "dzd", "nzn"};
    for (unsigned i = 0; i < (b->s->fresh ? 1 : ARRAY_LEN(test)); i++)
        co_all(b, test[i], 0, effort);
    co_all(b, "nnn", 1, effort);
    for (unsigned i = 0; effort == EFFORT_LONG && i < (b->s->fresh ? 0 : ARRAY_LEN(more)); i++)
        co_all(b, more[i], 0, effort);
    for (unsigned seed = 2; effort == EFFORT_LONG && seed < 8; seed++)
        co_all(b, seed & 1 ? "dzn" : "ddd", seed, effort);
    if (b->s->create && !enough())
        co_create_case(b);
    return !stats.failures;
}

/* "wfu:dnd", "wz:nn=3" */
bool co_exhaustive_case(const struct bench *b, const char *text)
{
    struct sequence q = {0};
    if (sscanf(text, "%3[wuFzdcfr]:%3[dnz]=%u", q.ops, q.places, &q.parallel) < 2 ||
        strlen(q.ops) != strlen(q.places)) {
        printf("no such case: %s\n", text);
        return false;
    }
    return co_named(b, &q, EFFORT_TEST);
}
