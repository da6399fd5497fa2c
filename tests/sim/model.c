/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The model. It knows nothing of formats: it is what a guest was told about its disk.
 *
 * A sector has *candidates*: contents that it may have. One that it may have *now* is there for every
 * order in which the operations in flight may take effect, each once or not yet:
 *
 *     A            nothing in flight
 *     A  A+w       w was issued
 *        A+w       w has returned: A is left behind, and remembers when
 *
 * With several in flight all orders are there (`mask` says which of them a candidate has seen; an
 * operation that covers a part of the sector only makes one out of another). An operation that
 * failed, and a discard, may have taken effect or not: nothing is left behind.
 *
 * Where the volume could not be closed cleanly, what was not stable may be lost: each of what a power
 * cut would have left may be now.
 *
 * Many small writes that were never stable, after such a loss, can make more contents of a sector than
 * anybody can list: of those with more than MANY nothing is asked any more.
 *
 * A read must give what was a candidate at some moment between its call and its return.
 *
 * After the death of the storage VM (with restart-safe) a sector is what it may be now. After a power
 * cut it may also be older: anything that was not yet left behind when the last flush that has
 * returned was called (closing the volume is one), but for what has not seen a write with FUA that has
 * returned. Nothing else, ever: not a mixture inside a sector, nor what was left behind before, nor
 * data of another place.
 */
#include "tests/sim/model.h"
#include "tests/sim/stamp.h"

#include <stdio.h>

#define MAX_PENDING 16
#define MANY        4096u

struct candidate {
    uint64_t hash;
    const uint8_t *data;
    uint32_t mask;  /* of pending operations it has seen */
    uint32_t until; /* when it was left behind; NEVER: it may be now */
    bool gone;      /* a write with FUA that it has not seen has returned */
};
struct expected {
    struct candidate *c;
    unsigned n, cap;
    bool any;                      /* too many: it may hold anything */
    uint32_t pending[MAX_PENDING]; /* operation + 1, 0: none; the index is the bit */
};

void model_start(struct model *m, const struct record *r, const uint8_t *content, uint64_t size,
                 struct heap *h)
{
    *m = (struct model){
        .record = r, .size = size, .heap = h, .nsectors = (size + SECTOR - 1) / SECTOR};
    m->sectors = heap_zalloc(h, m->nsectors * sizeof(*m->sectors));
    for (uint64_t i = 0; i < m->nsectors; i++) {
        struct expected *e = &m->sectors[i];
        const uint8_t *data = content + i * SECTOR;
        e->cap = 4;
        e->c = heap_alloc(h, e->cap * sizeof(*e->c));
        e->c[e->n++] = (struct candidate){.hash = sector_hash(data), .data = data, .until = NEVER};
    }
}

/* ---- candidates ---- */

static void add(struct model *m, struct expected *e, struct candidate c)
{
    for (unsigned i = 0; i < e->n; i++)
        if (e->c[i].hash == c.hash && e->c[i].mask == c.mask && e->c[i].until == NEVER)
            return;
    e->any |= e->n >= MANY;
    if (e->any)
        return;
    if (e->n == e->cap) {
        struct candidate *more = heap_alloc(m->heap, 2 * e->cap * sizeof(*more));
        memcpy(more, e->c, e->n * sizeof(*more));
        e->c = more;
        e->cap *= 2;
    }
    e->c[e->n++] = c;
}

/* The part of sector i that o covers. */
struct part {
    unsigned from, to;
};
static struct part part_of(const struct op *o, uint64_t i)
{
    uint64_t start = i * SECTOR, end = start + SECTOR;
    return (struct part){(unsigned)(MAX(o->off, start) - start),
                         (unsigned)(MIN(o->off + o->len, end) - start)};
}

static struct candidate applied(struct model *m, const struct op *o, uint64_t i, struct candidate c,
                                unsigned bit)
{
    struct part p = part_of(o, i);
    uint8_t *data = heap_alloc(m->heap, SECTOR);
    memcpy(data, c.data, SECTOR);
    if (o->kind == OP_WRITE || o->kind == OP_COMPRESSED)
        stamp_fill(data + p.from, o->seq, i * SECTOR + p.from, p.to - p.from);
    else
        memset(data + p.from, 0, p.to - p.from);
    return (struct candidate){
        .hash = sector_hash(data), .data = data, .mask = c.mask | 1u << bit, .until = NEVER};
}

/* Everything that can come of what may be now. The list grows while it is walked. */
static void close_over(struct model *m, uint64_t i)
{
    struct expected *e = &m->sectors[i];
    for (unsigned k = 0; k < e->n && !e->any; k++)
        for (unsigned bit = 0; bit < MAX_PENDING && e->c[k].until == NEVER; bit++)
            if (e->pending[bit] && !(e->c[k].mask >> bit & 1))
                add(m, e, applied(m, &m->record->ops[e->pending[bit] - 1], i, e->c[k], bit));
}

static void pend(struct model *m, uint64_t i, uint32_t op)
{
    struct expected *e = &m->sectors[i];
    unsigned bit = 0;
    while (bit < MAX_PENDING && e->pending[bit])
        bit++;
    if (bit == MAX_PENDING)
        panic("sim: more than %d operations in flight on one sector", MAX_PENDING);
    e->pending[bit] = op + 1;
    close_over(m, i);
}

/* What was left behind by then nobody can read any more, whatever happens. */
static uint32_t horizon(struct model *m, uint32_t now)
{
    const struct record *r = m->record;
    while (m->oldest < r->nops && r->ops[m->oldest].returned <= now)
        m->oldest++;
    uint32_t reads = m->oldest < r->nops ? r->ops[m->oldest].called : now;
    return MIN(reads, m->stable);
}

/* Candidates that now are the same become one. */
static void merge(struct expected *e, uint32_t forget)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < e->n; i++) {
        bool twin = e->c[i].until <= forget;
        for (unsigned k = 0; k < kept && !twin; k++)
            twin = e->c[k].hash == e->c[i].hash && e->c[k].mask == e->c[i].mask &&
                   e->c[k].until == e->c[i].until && e->c[k].gone == e->c[i].gone;
        if (!twin)
            e->c[kept++] = e->c[i];
    }
    e->n = kept;
}

static void settle(struct model *m, struct expected *e, uint32_t op, const struct op *o)
{
    bool must = !o->result && o->kind != OP_DISCARD;
    unsigned bit = 0;
    while (e->pending[bit] != op + 1)
        bit++;
    e->pending[bit] = 0;
    if (e->any)
        return;
    for (unsigned i = 0; i < e->n; i++) {
        struct candidate *c = &e->c[i];
        bool has_it = c->mask >> bit & 1;
        if (c->until == NEVER && must && !has_it)
            c->until = o->returned;
        c->gone |= must && o->fua && !has_it;
        c->mask &= ~(1u << bit);
    }
    merge(e, horizon(m, o->returned));
}

/* ---- operations ---- */

static bool changes(const struct op *o)
{
    return o->kind == OP_WRITE || o->kind == OP_ZERO || o->kind == OP_DISCARD ||
           o->kind == OP_COMPRESSED;
}

void model_call(struct model *m, uint32_t op)
{
    const struct op *o = &m->record->ops[op];
    if (changes(o))
        for (uint64_t i = o->off / SECTOR; i * SECTOR < o->off + o->len; i++)
            pend(m, i, op);
}

static bool may_read(const struct expected *e, const struct op *o, uint64_t i)
{
    struct part p = part_of(o, i);
    const uint8_t *got = o->data + (i * SECTOR + p.from - o->off);
    for (unsigned k = 0; k < e->n; k++)
        if (e->any ||
            (e->c[k].until > o->called && !memcmp(got, e->c[k].data + p.from, p.to - p.from)))
            return true;
    return false;
}

/* What was read, set into a sector of zeroes. */
static const char *tell_read(struct model *m, const struct op *o, uint64_t i)
{
    uint8_t sector[SECTOR] = {0};
    char text[300];
    struct part p = part_of(o, i);
    memcpy(sector + p.from, o->data + (i * SECTOR + p.from - o->off), p.to - p.from);
    return heap_printf(m->heap, "a read gave something else\n    read      %s\n%s",
                       stamp_tell(sector, i * SECTOR, text, sizeof(text)),
                       model_tell(m, VM_DEATH, i));
}

/* What was not stable may be there or not. */
static void forget_unstable(struct model *m)
{
    for (uint64_t i = 0; i < m->nsectors; i++)
        for (unsigned k = 0; k < m->sectors[i].n; k++) {
            struct candidate *c = &m->sectors[i].c[k];
            if (c->until > m->stable && !c->gone)
                c->until = NEVER;
        }
}

const char *model_return(struct model *m, uint32_t op)
{
    const struct op *o = &m->record->ops[op];
    if (o->kind == OP_REOPEN && o->result)
        forget_unstable(m);
    if ((o->kind == OP_FLUSH || o->kind == OP_REOPEN) && !o->result)
        m->stable = MAX(m->stable, o->called);
    for (uint64_t i = o->off / SECTOR; i * SECTOR < o->off + o->len; i++) {
        if (changes(o))
            settle(m, &m->sectors[i], op, o);
        else if (o->kind == OP_READ && !o->result && !may_read(&m->sectors[i], o, i))
            return tell_read(m, o, i);
    }
    return NULL;
}

/* ---- after a crash ---- */

static bool allowed(const struct model *m, enum crash_kind kind, const struct candidate *c)
{
    return kind == VM_DEATH ? c->until == NEVER : c->until > m->stable && !c->gone;
}

bool model_allows(const struct model *m, enum crash_kind kind, const uint64_t *hashes,
                  uint64_t *bad)
{
    for (uint64_t i = 0; i < m->nsectors; i++) {
        const struct expected *e = &m->sectors[i];
        unsigned k = e->n;
        while (k && !e->any && !(e->c[k - 1].hash == hashes[i] && allowed(m, kind, &e->c[k - 1])))
            k--;
        if (!k) {
            *bad = i;
            return false;
        }
    }
    return true;
}

const char *model_tell(const struct model *m, enum crash_kind kind, uint64_t sector)
{
    const struct expected *e = &m->sectors[sector];
    char text[300],
        *all = heap_printf(m->heap, "    sector    %llu of the volume, offset %#llx\n",
                           (unsigned long long)sector, sector * (unsigned long long)SECTOR);
    unsigned told = 0;
    for (unsigned i = 0; i < e->n && told < 8; i++)
        if (allowed(m, kind, &e->c[i]) && ++told)
            all = heap_printf(m->heap, "%s    promised  %s%s\n", all,
                              stamp_tell(e->c[i].data, sector * SECTOR, text, sizeof(text)),
                              e->c[i].until == NEVER ? "" : ", which may be lost");
    return all;
}
