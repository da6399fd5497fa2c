/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Seeded mode: long runs of several clients at once, with everything that the seed can vary.
 *
 * A run has phases; in each, some clients issue operations as they like, over the same volume and
 * often the same places; between phases the volume is closed and opened again. A run has a character,
 * chosen at its beginning: many flushes or hardly any, large operations or small ones, reads or none,
 * a few hot clusters or all of the volume; a quarter of the runs has a fault in it (a request of the
 * file fails once, or all of its kind fail for a while).
 */
#include "tests/sim/run.h"

#include <stdio.h>

#define MAX_CLIENTS 6
#define MAX_PHASES  3

struct plan {
    const struct bench *bench;
    struct rng rng;
    uint32_t seq; /* the next stamp */
    unsigned clients, ops, phases;
    unsigned weight[OP_READ + 1], weights;
    unsigned fua_one_in, hot; /* hot: clusters; 0: all */
    uint64_t hot_at;
    unsigned longest; /* bytes */
    bool faulty;
    struct op current[MAX_CLIENTS]; /* in flight; len 0: none */
};

/* ---- the plan ---- */

static void choose_weights(struct plan *p)
{
    static const unsigned few[] = {0, 2, 6, 12};
    p->weight[OP_WRITE] = 8;
    p->weight[OP_ZERO] = few[rng_below(&p->rng, 4)];
    p->weight[OP_DISCARD] = few[rng_below(&p->rng, 4)];
    p->weight[OP_COMPRESSED] = few[rng_below(&p->rng, 4)];
    p->weight[OP_FLUSH] = few[rng_below(&p->rng, 4)];
    p->weight[OP_READ] = few[rng_below(&p->rng, 4)];
    for (unsigned i = 0; i <= OP_READ; i++)
        p->weights += p->weight[i];
}

static struct plan make_plan(const struct bench *b, uint64_t number)
{
    struct plan p = {.bench = b,
                     .rng = rng_seeded(number, hash_bytes(b->s->name, strlen(b->s->name))),
                     .seq = 0x1000};
    unsigned clusters = (unsigned)(b->s->size / b->s->cluster);
    p.clients = 1 + rng_below(&p.rng, MAX_CLIENTS);
    p.phases = 1 + rng_below(&p.rng, MAX_PHASES);
    p.ops = 5 + rng_below(&p.rng, rng_one_in(&p.rng, 4) ? 300 : 60);
    p.fua_one_in = rng_one_in(&p.rng, 2) ? 6 : 1000;
    p.hot = rng_one_in(&p.rng, 2) ? 1 + rng_below(&p.rng, MIN(8u, clusters)) : clusters;
    p.hot_at = (uint64_t)rng_below(&p.rng, clusters - p.hot + 1) * b->s->cluster;
    p.longest = b->s->cluster * (rng_one_in(&p.rng, 3) ? 8 : 2);
    p.faulty = rng_one_in(&p.rng, 4);
    choose_weights(&p);
    return p;
}

/* Most runs have requests of some kind that are slow now and then. */
static void choose_slow(struct plan *p)
{
    enum sim_op on = (enum sim_op)rng_below(&p->rng, SIM_OPS + 2);
    for (unsigned m = 0; m < MEDIA && on < SIM_OPS; m++)
        media[m].slow[on] = 2 + rng_below(&p->rng, 12);
}

/* ---- one operation ---- */

static unsigned granularity(struct plan *p)
{
    static const unsigned grains[] = {1, 8, SECTOR};
    unsigned g = rng_below(&p->rng, 4);
    return g < 3 ? grains[g] : p->bench->s->cluster;
}

static void choose_range(struct plan *p, struct op *o, unsigned grain)
{
    uint64_t end = p->bench->s->size;
    unsigned span = p->hot * p->bench->s->cluster;
    o->off = align_down(p->hot_at + rng_below(&p->rng, span), grain);
    o->len = align_up(1 + rng_below(&p->rng, p->longest), grain);
    o->len = MIN(o->len, end - o->off);
}

static struct op choose_op(struct plan *p)
{
    unsigned at = rng_below(&p->rng, p->weights), kind = 0;
    while (at >= p->weight[kind])
        at -= p->weight[kind++];
    struct op o = {.kind = (uint8_t)kind, .seq = p->seq++};
    if (kind == OP_FLUSH)
        return o;
    choose_range(p, &o, kind == OP_COMPRESSED ? p->bench->s->cluster : granularity(p));
    if (kind == OP_COMPRESSED)
        o.len = MIN(p->bench->s->cluster, o.len);
    o.fua = (kind == OP_WRITE || kind == OP_ZERO) && rng_one_in(&p->rng, p->fua_one_in);
    return o;
}

/* Orders multiply: of three operations in flight on one place the model has to follow each. */
static bool is_crowded(const struct plan *p, const struct op *o)
{
    unsigned met = 0;
    for (unsigned i = 0; i < MAX_CLIENTS; i++) {
        const struct op *c = &p->current[i];
        met += c->kind != OP_READ && c->off < align_up(o->off + o->len, SECTOR) &&
               align_down(o->off, SECTOR) < c->off + c->len;
    }
    return met > 1 && o->kind != OP_READ;
}

static struct op next_op(struct plan *p)
{
    for (unsigned tries = 0; tries < 8; tries++) {
        struct op o = choose_op(p);
        if (!is_crowded(p, &o))
            return o;
    }
    return (struct op){.kind = OP_FLUSH};
}

/* ---- clients ---- */

struct client {
    struct co_start start;
    struct plan *plan;
    struct volume *v;
    unsigned id, left;
    struct co_join *join;
};

static void co_client(void *arg)
{
    struct client *c = arg;
    while (c->left--) {
        struct op *o = &c->plan->current[c->id];
        *o = next_op(c->plan);
        co_volume_op(c->v, &the_record, *o);
        *o = (struct op){0};
        if (rng_one_in(sim_rng(), 8))
            co_sleep_ns(rng_below(sim_rng(), 20000));
    }
    co_join_done(c->join, 0);
}

static void co_phase(struct plan *p, struct volume *v)
{
    struct client clients[MAX_CLIENTS];
    struct co_join join;
    co_join_init(&join);
    for (unsigned i = 0; i < p->clients; i++) {
        clients[i] = (struct client){
            .plan = p, .v = v, .id = i, .left = 1 + p->ops / p->phases / p->clients, .join = &join};
        co_join_add(&join);
        co_start(&clients[i].start, co_client, &clients[i]);
    }
    co_join_wait(&join);
}

/* ---- faults ---- */

static void make_fault(struct plan *p)
{
    static const enum sim_op kinds[] = {ON_WRITE, ON_WRITE, ON_FLUSH, ON_READ, ON_TRUNCATE};
    struct medium *m = &media[p->bench->s->data_file ? rng_below(&p->rng, 2) : MEDIUM_FILE];
    enum sim_op on = kinds[rng_below(&p->rng, ARRAY_LEN(kinds))];
    m->faults[on] = (struct sim_fault){
        .nth = m->asked[on] + 1 + rng_below(&p->rng, 60),
        .stays = rng_one_in(&p->rng, 3),
        .error = on == ON_WRITE && rng_one_in(&p->rng, 2) ? SR_ENOSPC : SR_EIO,
    };
}

static unsigned end_faults(void)
{
    unsigned fired = 0;
    for (unsigned m = 0; m < MEDIA; m++) {
        memset(media[m].faults, 0, sizeof(media[m].faults));
        fired += media[m].fired;
    }
    return fired;
}

/* ---- the run ---- */

static int co_phases(struct plan *p, struct volume *v)
{
    int r = 0;
    for (unsigned i = 0; i < p->phases && !r; i++) {
        if (p->faulty)
            make_fault(p);
        co_phase(p, v);
        end_faults();
        if (i + 1 < p->phases)
            r = co_run_reopen(p->bench, v);
    }
    return r;
}

/* Three runs of four do not crash: what goes wrong without is found sooner. */
static struct thoroughness how(uint64_t number)
{
    size_t points = the_record.nchanges + the_record.nops;
    return (struct thoroughness){.all_subsets = 3,
                                 .samples = 12,
                                 .one_in = (unsigned)(points / 24 + 1),
                                 .none = number % 4 != 0};
}

bool co_random_case(const struct bench *b, uint64_t number)
{
    struct plan p = make_plan(b, number);
    struct volume v;
    struct error err = {0};
    snprintf(sim_current, SIM_NAME_MAX, "%s:%llu", b->s->name, (unsigned long long)number);
    run_start(b, number, true, 1u << (8 + rng_below(&p.rng, 8)));
    choose_slow(&p);
    if (co_volume_open(&v, b->open, b->s->restart_safe, &err)) {
        sim_fail("does not open: %s\n", err.msg);
        return false;
    }
    if (co_phases(&p, &v))
        return false;
    co_run_close(&v);
    unsigned fired = end_faults();
    stats.faults += fired;
    struct run run = {
        .bench = b, .record = &the_record, .seed = number, .faulty = fired, .how = how(number)};
    return co_run_verify(&run);
}
