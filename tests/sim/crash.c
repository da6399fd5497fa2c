/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Crash states.
 *
 * The record is followed event by event. What certainly is on the media is kept in an image of each;
 * what may be or may not be is a list of *loose* changes, in the order in which readers saw them:
 *
 *     CHANGE              joins the loose ones
 *     ANSWER, power cut   a flush: the changes of its medium that had been answered before it was
 *                         issued are certain; FUA: its own are
 *     ANSWER, VM death    every change is certain when it is answered
 *
 * A crash state is the certain image with some of the loose changes over it, sector by sector: each
 * sector of each change may be there or not. Where several loose changes meet, the last that is
 * there wins, as if those before it had been overwritten; one that a certain change has overwritten
 * for readers cannot come back. That covers what a cache may do: keep, lose, reorder, tear. Changes
 * of a size are ordered among themselves, as file systems keep them: one that is there has those
 * before it; data behind the size that is left are gone.
 *
 * A *crash point* is a moment after which the possible states or the promises are others than before
 * it: a change became possible, or an operation of the guest returned. (An answer only makes the
 * possible states fewer, so its states have all been looked at.) After a change only states that
 * have it are new.
 *
 *     n loose changes, n <= all_subsets     all subsets
 *     more                                  none, all, each one alone, all but each one,
 *                                           all up to each one
 *     each change of several sectors        torn: first or last half or sector only, first or last
 *                                           sector missing, with none and with all of the others
 *     samples                               each sector by itself, with several probabilities
 *
 * States are named by a digest, a sum over all sectors, so that a subset costs as much as its
 * changes are long, and whoever keeps a table of digests looks at each state once.
 */
#include "tests/sim/crash.h"
#include "tests/sim/stamp.h"

#include <stdlib.h>

/* A certain image, and how the state at hand differs from it. */
struct image {
    uint8_t *data;
    uint64_t *hashes;
    uint32_t *order; /* of the change that a sector is from, + 1; 0: from before the run */
    uint64_t size, digest;
    uint32_t size_order; /* the same for the size */
    uint32_t *mark;      /* == crash.now: the state has over[sector] instead */
    const struct version **over;
    uint64_t *touched; /* those sectors */
    size_t ntouched;
    uint64_t new_size;
};
/* Which sectors of a loose change a state has: of [from, to) those that `chance` in 256 allows. */
struct pick {
    uint32_t from, to, chance;
};
struct crash {
    struct crash_walk *walk;
    struct image images[MEDIA];
    uint32_t *loose; /* changes, by order */
    struct pick *picks;
    size_t nloose, cap_loose, cap_picks;
    uint32_t newest; /* change: only states that have some of it; NEVER: all */
    uint32_t now;    /* number of the state at hand */
    uint64_t salt;   /* of its chances */
    uint32_t event;  /* the crash point */
    bool stop;
};

static const struct change *change_of(const struct crash *c, uint32_t index)
{
    return &c->walk->record->changes[index];
}

static const struct request *request_of(const struct crash *c, const struct change *ch)
{
    return &c->walk->record->requests[ch->request];
}

static struct image *image_of(struct crash *c, const struct change *ch)
{
    return &c->images[request_of(c, ch)->medium];
}

/* ---- digests ---- */

static uint64_t key(unsigned medium, uint64_t sector, uint64_t hash)
{
    return hash ? mix64(hash ^ mix64((uint64_t)medium << 56 | (sector + 1))) : 0;
}

static uint64_t size_key(unsigned medium, uint64_t size)
{
    return mix64(size * 0x9e3779b97f4a7c15ull + medium);
}

static uint64_t state_digest(const struct crash *c)
{
    uint64_t sum = 0;
    for (unsigned m = 0; m < MEDIA; m++) {
        const struct image *im = &c->images[m];
        sum += im->digest + size_key(m, im->new_size);
        for (size_t i = 0; i < im->ntouched; i++) {
            uint64_t s = im->touched[i];
            sum += key(m, s, im->over[s]->hash) - key(m, s, im->hashes[s]);
        }
    }
    return sum;
}

/* ---- snapshots ---- */

void snapshot_take(struct snapshot *snap, struct heap *h)
{
    *snap = (struct snapshot){0};
    for (unsigned m = 0; m < MEDIA; m++) {
        const struct medium *from = &media[m];
        uint64_t n = from->capacity / SECTOR;
        uint8_t *data = heap_zalloc(h, from->capacity);
        uint64_t *hashes = heap_zalloc(h, n * sizeof(*hashes));
        memcpy(data, from->data, from->size);
        for (uint64_t i = 0; i < n; i++) {
            hashes[i] = sector_hash(data + i * SECTOR);
            snap->digest[m] += key(m, i, hashes[i]);
        }
        snap->data[m] = data;
        snap->hashes[m] = hashes;
        snap->size[m] = from->size;
        snap->capacity[m] = from->capacity;
    }
}

void snapshot_put(const struct snapshot *snap)
{
    for (unsigned m = 0; m < MEDIA; m++) {
        ASSERT(media[m].capacity == snap->capacity[m] && !media[m].opened);
        memcpy(media[m].data, snap->data[m], snap->size[m]);
        media[m].size = snap->size[m];
    }
}

static void image_start(struct image *im, const struct snapshot *snap, unsigned m, struct heap *h)
{
    uint64_t n = snap->capacity[m] / SECTOR;
    *im = (struct image){.size = snap->size[m], .digest = snap->digest[m]};
    im->data = heap_alloc(h, snap->capacity[m]);
    im->hashes = heap_alloc(h, n * sizeof(*im->hashes));
    im->order = heap_zalloc(h, n * sizeof(*im->order));
    im->mark = heap_zalloc(h, n * sizeof(*im->mark));
    im->over = heap_alloc(h, n * sizeof(*im->over));
    im->touched = heap_alloc(h, n * sizeof(*im->touched));
    memcpy(im->data, snap->data[m], snap->capacity[m]);
    memcpy(im->hashes, snap->hashes[m], n * sizeof(*im->hashes));
}

/* ---- what is certain ---- */

static void set_sector(struct image *im, unsigned m, uint64_t s, const struct version *v)
{
    im->digest += key(m, s, v->hash) - key(m, s, im->hashes[s]);
    im->hashes[s] = v->hash;
    memcpy(im->data + s * SECTOR, v->data, SECTOR);
}

static uint64_t sectors_in(uint64_t size)
{
    return (size + SECTOR - 1) / SECTOR;
}

static void certain_size(struct image *im, unsigned m, const struct change *ch)
{
    if (im->size_order > ch->order)
        return;
    for (uint64_t s = sectors_in(ch->size); s < sectors_in(im->size); s++)
        set_sector(im, m, s, &zero_version);
    im->size = ch->size;
    im->size_order = ch->order + 1;
}

static void certain(struct crash *c, const struct change *ch)
{
    const struct request *q = request_of(c, ch);
    struct image *im = &c->images[q->medium];
    if (q->kind == REQ_TRUNCATE) {
        certain_size(im, q->medium, ch);
        return;
    }
    for (uint32_t i = 0; i < ch->count; i++) {
        uint64_t s = ch->sector + i;
        if (im->order[s] > ch->order)
            continue;
        set_sector(im, q->medium, s, &ch->v[i]);
        im->order[s] = ch->order + 1;
    }
}

/* ---- what is loose ---- */

static void loosen(struct crash *c, uint32_t index)
{
    size_t at = c->nloose++;
    GROW(c->loose, at, c->cap_loose);
    GROW(c->picks, at, c->cap_picks);
    for (; at && change_of(c, c->loose[at - 1])->order > change_of(c, index)->order; at--)
        c->loose[at] = c->loose[at - 1];
    c->loose[at] = index;
}

/* Has `answered` made `ch` certain? */
static bool covered(const struct crash *c, const struct change *ch, uint32_t answered)
{
    const struct request *r = &c->walk->record->requests[answered], *own = request_of(c, ch);
    if (ch->request == answered)
        return c->walk->kind == VM_DEATH || (r->fua && !r->failed);
    return r->kind == REQ_FLUSH && !r->failed && own->medium == r->medium &&
           own->answered < r->issued;
}

static void settle(struct crash *c, uint32_t answered)
{
    size_t kept = 0;
    for (size_t i = 0; i < c->nloose; i++) {
        const struct change *ch = change_of(c, c->loose[i]);
        if (covered(c, ch, answered))
            certain(c, ch);
        else
            c->loose[kept++] = c->loose[i];
    }
    c->nloose = kept;
}

/* ---- one state ---- */

static void over(struct crash *c, struct image *im, uint64_t s, const struct version *v)
{
    if (im->mark[s] != c->now) {
        im->mark[s] = c->now;
        im->touched[im->ntouched++] = s;
    }
    im->over[s] = v;
}

static void pick_size(struct crash *c, struct image *im, const struct change *ch)
{
    for (uint64_t s = sectors_in(ch->size); s < sectors_in(im->new_size); s++)
        over(c, im, s, &zero_version);
    im->new_size = ch->size;
}

static bool has_sector(const struct crash *c, size_t i, uint32_t sector)
{
    const struct pick *p = &c->picks[i];
    return sector >= p->from && sector < p->to &&
           (p->chance == 256 || (mix64(c->salt + i * 4096 + sector) & 255) < p->chance);
}

static void pick_change(struct crash *c, size_t at)
{
    const struct change *ch = change_of(c, c->loose[at]);
    struct image *im = image_of(c, ch);
    if (request_of(c, ch)->kind == REQ_TRUNCATE) {
        if (c->picks[at].to && im->size_order <= ch->order)
            pick_size(c, im, ch);
        return;
    }
    for (uint32_t i = c->picks[at].from; i < c->picks[at].to; i++) {
        uint64_t s = ch->sector + i;
        if (s < sectors_in(im->new_size) && im->order[s] <= ch->order && has_sector(c, at, i))
            over(c, im, s, &ch->v[i]);
    }
}

/* A size that is there has those before it. */
static void order_sizes(struct crash *c)
{
    bool later[MEDIA] = {false};
    for (size_t i = c->nloose; i--;) {
        const struct request *q = request_of(c, change_of(c, c->loose[i]));
        if (q->kind != REQ_TRUNCATE)
            continue;
        later[q->medium] |= c->picks[i].to && c->picks[i].chance > rng_below(&c->walk->rng, 256);
        c->picks[i] = (struct pick){.to = later[q->medium], .chance = 256};
    }
}

/* The state that the picks say. */
static void co_visit_state(struct crash *c)
{
    if (c->stop)
        return;
    order_sizes(c);
    c->now++;
    for (unsigned m = 0; m < MEDIA; m++) {
        c->images[m].ntouched = 0;
        c->images[m].new_size = c->images[m].size;
    }
    for (size_t i = 0; i < c->nloose; i++)
        pick_change(c, i);
    struct state s = {.crash = c, .digest = state_digest(c)};
    c->walk->counts.states++;
    c->stop = !c->walk->co_visit(c->walk, &s);
}

void state_put(const struct state *s)
{
    for (unsigned m = 0; m < MEDIA; m++) {
        const struct image *im = &s->crash->images[m];
        memcpy(media[m].data, im->data, MIN(im->size, im->new_size));
        if (im->new_size > im->size)
            memset(media[m].data + im->size, 0, im->new_size - im->size);
        for (size_t i = 0; i < im->ntouched; i++)
            memcpy(media[m].data + im->touched[i] * SECTOR, im->over[im->touched[i]]->data, SECTOR);
        media[m].size = im->new_size;
    }
}

/* ---- which states ---- */

static struct pick whole(const struct crash *c, size_t i)
{
    const struct change *ch = change_of(c, c->loose[i]);
    return (struct pick){.to = ch->count ? ch->count : 1, .chance = 256};
}

static void pick_all(struct crash *c, bool all)
{
    for (size_t i = 0; i < c->nloose; i++)
        c->picks[i] = all ? whole(c, i) : (struct pick){0};
}

/* After a change only states that have it are new. */
static bool has_newest(const struct crash *c)
{
    for (size_t i = 0; i < c->nloose; i++)
        if (c->loose[i] == c->newest)
            return c->picks[i].to > c->picks[i].from;
    return true;
}

static void co_try(struct crash *c)
{
    if (has_newest(c))
        co_visit_state(c);
}

static void co_all_subsets(struct crash *c)
{
    for (uint64_t set = 0; set < 1ull << c->nloose; set++) {
        for (size_t i = 0; i < c->nloose; i++)
            c->picks[i] = set >> i & 1 ? whole(c, i) : (struct pick){0};
        co_try(c);
    }
}

static void co_some_subsets(struct crash *c)
{
    for (size_t i = 0; i <= c->nloose; i++) { /* up to i */
        pick_all(c, false);
        for (size_t k = 0; k < i; k++)
            c->picks[k] = whole(c, k);
        co_try(c);
    }
    for (size_t i = 0; i < c->nloose; i++) {
        pick_all(c, false);
        c->picks[i] = whole(c, i);
        co_try(c);
        pick_all(c, true);
        c->picks[i] = (struct pick){0};
        co_try(c);
    }
}

static void co_tear(struct crash *c, size_t i, uint32_t count)
{
    const struct pick tears[] = {{0, count / 2, 256}, {count / 2, count, 256},
                                 {0, 1, 256},         {count - 1, count, 256},
                                 {1, count, 256},     {0, count - 1, 256}};
    for (size_t t = 0; t < (count == 2 ? 2 : ARRAY_LEN(tears)); t++)
        for (unsigned others = 0; others < 2; others++) {
            pick_all(c, others);
            c->picks[i] = tears[t];
            co_try(c);
        }
}

static void co_sample(struct crash *c)
{
    static const uint32_t chances[] = {13, 64, 128, 192, 243};
    uint32_t chance = chances[rng_below(&c->walk->rng, ARRAY_LEN(chances))];
    c->salt = rng_next(&c->walk->rng);
    pick_all(c, true);
    for (size_t i = 0; i < c->nloose; i++)
        c->picks[i].chance = chance;
    co_visit_state(c);
}

static void co_crash_point(struct crash *c, uint32_t newest)
{
    struct crash_walk *w = c->walk;
    if (w->how.one_in > 1 && !rng_one_in(&w->rng, w->how.one_in))
        return;
    w->counts.points++;
    c->newest = w->how.one_in > 1 ? NEVER : newest;
    if (c->nloose <= w->how.all_subsets)
        co_all_subsets(c);
    else
        co_some_subsets(c);
    for (size_t i = 0; i < c->nloose; i++) {
        uint32_t count = change_of(c, c->loose[i])->count;
        if (count > 1)
            co_tear(c, i, count);
    }
    for (unsigned i = 0; i < w->how.samples && c->nloose; i++)
        co_sample(c);
}

/* ---- the walk ---- */

static void co_return (struct crash *c, uint32_t op, bool ours)
{
    struct crash_walk *w = c->walk;
    const char *what = model_return(w->model, op);
    if (what && w->misread)
        c->stop = !w->misread(w, op, what);
    if (ours && w->record->ops[op].kind != OP_READ && !c->stop)
        co_crash_point(c, NEVER);
}

static void co_event(struct crash *c, const struct event *e, bool ours)
{
    if (e->kind == EV_CALL)
        model_call(c->walk->model, e->index);
    else if (e->kind == EV_RETURN)
        co_return (c, e->index, ours);
    else if (e->kind == EV_ANSWER)
        settle(c, e->index);
    else
        loosen(c, e->index);
    if (e->kind == EV_CHANGE && ours)
        co_crash_point(c, e->index);
}

bool co_crash_walk(struct crash_walk *w)
{
    struct crash c = {.walk = w};
    const struct record *r = w->record;
    uint32_t from = w->how.from_op < r->nops ? r->ops[w->how.from_op].called : 0;
    heap_reset(w->heap);
    for (unsigned m = 0; m < MEDIA; m++)
        image_start(&c.images[m], w->before, m, w->heap);
    for (uint32_t i = 0; i < r->nevents && !c.stop; i++) {
        c.event = i;
        co_event(&c, &r->events[i], i >= from && !w->how.none);
    }
    free(c.loose);
    free(c.picks);
    return !c.stop;
}

/* ---- for people ---- */

static char *tell_op(char *all, const struct op *o, uint32_t now, struct heap *h)
{
    const char *how = o->returned > now ? "in flight" : o->result ? sr_strerror(o->result) : "done";
    return heap_printf(h, "%s    guest     %s%s %u %#llx+%#llx: %s\n", all, op_names[o->kind],
                       o->fua ? " fua" : "", o->seq, (unsigned long long)o->off,
                       (unsigned long long)o->len, how);
}

/* The last operations, and which of them had returned. */
static char *tell_ops(const struct crash *c, char *all, struct heap *h)
{
    const struct record *r = c->walk->record;
    size_t n = 0;
    while (n < r->nops && r->ops[n].called <= c->event)
        n++;
    for (size_t i = n > 12 ? n - 12 : 0; i < n; i++)
        all = tell_op(all, &r->ops[i], c->event, h);
    return all;
}

static char *tell_loose(const struct crash *c, size_t i, char *all, struct heap *h)
{
    const struct change *ch = change_of(c, c->loose[i]);
    const struct request *q = request_of(c, ch);
    const struct pick *p = &c->picks[i];
    const char *what = !p->to ? "lost" : "kept";
    if (p->to && (p->chance < 256 || p->to - p->from < ch->count))
        what = heap_printf(h, "torn, sectors %u to %u%s", p->from, p->to - 1,
                           p->chance < 256 ? " at random" : "");
    return heap_printf(h, "%s    %-9s %s %#llx+%#llx: %s\n", all, medium_names[q->medium],
                       request_names[q->kind], (unsigned long long)ch->sector * SECTOR,
                       (unsigned long long)ch->count * SECTOR, what);
}

const char *state_tell(const struct state *s, struct heap *h)
{
    const struct crash *c = s->crash;
    char *all = heap_printf(h, "    %s after event %u, state %016llx\n",
                            c->walk->kind == POWER_CUT ? "power cut" : "death of the VM", c->event,
                            (unsigned long long)s->digest);
    all = tell_ops(c, all, h);
    for (size_t i = 0; i < c->nloose; i++)
        all = tell_loose(c, i, all, h);
    return all;
}
