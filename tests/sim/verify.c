/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Verification. See verify.h.
 *
 *     state -> media -> check -> open read-write -> read all -> (write again) -> close -> check
 *                         |                            |                                   |
 *                no corruption, unless          hashes of sectors,               no corruption,
 *                the dirty bit is set           against the model               leaks not more
 *
 * Samples: one is written to after it was opened, read back, and opened once more; one is given to the
 * driver's own check, which has to find the same, and to repair it; one to qemu-img; and of one the
 * repair, by opening or by the check, is recorded, and each crash of that is verified in turn, against
 * the same promises.
 */
#include "tests/sim/verify.h"
#include "tests/sim/qemu.h"
#include "tests/sim/stamp.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_VOLUME (1u << 20)

struct stats stats;
struct sampling sampling;

/* What came of a state. */
struct outcome {
    uint64_t digest;
    const uint64_t *hashes; /* of the sectors; NULL: `bad` */
    const char *bad;
};
static struct {
    struct outcome *slot; /* open addressing */
    size_t count, mask;
    struct heap heap;
} seen;

static uint8_t content[MAX_VOLUME]; /* what was read last */
static struct heap scratch;         /* of one report */

void stats_add(struct stats *to, const struct stats *more)
{
    uint64_t *a = (uint64_t *)to;
    const uint64_t *b = (const uint64_t *)more;
    for (size_t i = 0; i < sizeof(*to) / sizeof(*a); i++)
        a[i] += b[i];
}

void sim_fail(const char *fmt, ...)
{
    va_list ap;
    stats.failures++;
    va_start(ap, fmt);
    printf("FAILED %s: ", sim_current);
    vprintf(fmt, ap);
    printf("    replay    make sim SEED='%s'\n", sim_current);
    va_end(ap);
    fflush(stdout);
}

/* ---- what was seen ---- */

static struct outcome *find_slot(uint64_t digest)
{
    size_t at = digest & seen.mask;
    while (seen.slot[at].digest && seen.slot[at].digest != digest)
        at = (at + 1) & seen.mask;
    return &seen.slot[at];
}

static void resize(size_t slots)
{
    struct outcome *old = seen.slot;
    size_t n = old ? seen.mask + 1 : 0;
    seen.slot = calloc(slots, sizeof(*old));
    if (!seen.slot)
        panic("sim: no memory");
    seen.mask = slots - 1;
    for (size_t i = 0; i < n; i++)
        if (old[i].digest)
            *find_slot(old[i].digest) = old[i];
    free(old);
}

static struct outcome *outcome_of(uint64_t digest)
{
    if (4 * seen.count >= 3 * seen.mask)
        resize(seen.mask ? 2 * (seen.mask + 1) : 4096);
    return find_slot(digest ? digest : 1);
}

void verify_reset(void)
{
    if (seen.slot)
        memset(seen.slot, 0, (seen.mask + 1) * sizeof(*seen.slot));
    seen.count = 0;
    heap_reset(&seen.heap);
}

/* ---- looking at what is on the media ---- */

static const char *words(const char *fmt, ...) PRINTF_LIKE(1, 2);
static const char *words(const char *fmt, ...)
{
    char text[1500];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    return heap_printf(&seen.heap, "%s", text);
}

static const char *check(const struct subject *s, struct findings *f)
{
    *f = (struct findings){0};
    if (s->check)
        s->check(f);
    return f->corruptions ? words("the image is corrupt: %s", f->text) : NULL;
}

/* Opened, and all of it read into `content`. */
static const char *co_open_and_read(const struct bench *b, struct volume *v)
{
    const struct subject *s = b->s;
    struct error err = {0};
    int r = co_volume_open(v, b->open, s->restart_safe, &err);
    if (r)
        return words("the image does not open: %s\n%s", err.msg, sim_console());
    memset(content, 0, align_up(s->size, SECTOR));
    r = co_volume_read_all(v, content, 65536);
    if (!r)
        return NULL;
    co_volume_close(v);
    return words("the image cannot be read: %s\n%s", sr_strerror(r), sim_console());
}

static const uint64_t *hashes_of(const struct subject *s)
{
    uint64_t n = (s->size + SECTOR - 1) / SECTOR, *h = heap_alloc(&seen.heap, n * sizeof(*h));
    for (uint64_t i = 0; i < n; i++)
        h[i] = sector_hash(content + i * SECTOR);
    return h;
}

/* ---- writing to what was reopened ---- */

static struct record reuse_record;

/* A few writes of everything, one after the other; `content` follows. Leaks may have filled the disk
 * (`full`): then it does not. */
static const char *co_write_some(const struct subject *s, struct volume *v, struct rng *rng,
                                 bool *full)
{
    *full = false;
    for (unsigned i = 0; i < 6; i++) {
        uint64_t len = 8 * (1 + rng_below(rng, 3 * s->cluster / 8));
        uint64_t off = 8 * rng_below(rng, (unsigned)((s->size - len) / 8 + 1));
        struct op o = {.kind = rng_one_in(rng, 4) ? OP_ZERO : OP_WRITE,
                       .seq = 0xee0000 + i,
                       .off = off,
                       .len = len,
                       .fua = rng_one_in(rng, 4)};
        int r = co_volume_op(v, &reuse_record, o);
        *full =
            r == SR_ENOSPC && (s->file_size || !s->traits.growable ||
                               media[MEDIUM_FILE].size + s->cluster > media[MEDIUM_FILE].capacity);
        if (*full)
            return NULL;
        if (r)
            return words("writing after reopening: %s", sr_strerror(r));
        if (o.kind == OP_ZERO)
            memset(content + off, 0, len);
        else
            stamp_fill(content + off, o.seq, off, len);
    }
    return NULL;
}

static const char *co_reuse(const struct bench *b, struct volume *v, uint64_t digest)
{
    const struct subject *s = b->s;
    static uint8_t wanted[MAX_VOLUME];
    struct rng rng = rng_seeded(digest, 1);
    struct findings f;
    bool full;
    record_reset(&reuse_record);
    const char *bad = co_write_some(s, v, &rng, &full);
    co_volume_close(v);
    memcpy(wanted, content, s->size);
    if (!bad)
        bad = check(s, &f);
    if (!bad)
        bad = co_open_and_read(b, v);
    if (bad)
        return bad;
    co_volume_close(v);
    stats.reused++;
    for (uint64_t off = 0; off < s->size && !full; off += SECTOR)
        if (memcmp(wanted + off, content + off, MIN(SECTOR, s->size - off)))
            return words("written to and reopened, offset %#llx is lost", (unsigned long long)off);
    return NULL;
}

/* ---- one state ---- */

static bool sampled(uint64_t digest, unsigned one_in, unsigned which)
{
    return one_in && !(hash_two(digest, which) % one_in);
}

static void count_leaks(const struct findings *f)
{
    stats.leaky += f->leaks != 0 && !f->dirty;
    stats.leaks += f->dirty ? 0 : f->leaks;
    stats.repaired += f->dirty;
}

/* After it was closed. A repair leaves no leaks. */
static const char *check_again(const struct subject *s, const struct findings *before)
{
    struct findings after;
    const char *bad = check(s, &after);
    if (bad)
        return words("after reopening and closing, %s", bad);
    if (after.dirty)
        return "the dirty bit is still set after closing";
    if (after.leaks > (before->dirty ? 0 : before->leaks))
        return words("reopening and closing leaves %llu leaks, there were %llu",
                     (unsigned long long)after.leaks,
                     (unsigned long long)(before->dirty ? 0 : before->leaks));
    return NULL;
}

/* ---- the driver's own check ---- */

static const char *co_own_check(const struct subject *s, unsigned fix, struct blk_check *res)
{
    struct volume v;
    struct error err = {0};
    if (co_file_open(&v, &err))
        return words("the file does not open: %s", err.msg);
    *res = (struct blk_check){0};
    int r = subject_driver(s)->co_check(v.root, fix, res, &err);
    co_volume_close(&v);
    return r ? words("our check gives up: %s", err.msg) : NULL;
}

/* It finds what the other one finds; when it has repaired, there is nothing to find. Opening then is
 * not repairing any more. */
static const char *co_check_and_repair(const struct subject *s, struct findings *f)
{
    struct blk_check res;
    const char *bad = co_own_check(s, 0, &res);
    stats.checked++;
    if (!bad && !f->dirty && (res.corruptions || res.leaks != f->leaks))
        bad = words("our check finds %llu corruptions and %llu leaks, the other %llu leaks",
                    (unsigned long long)res.corruptions, (unsigned long long)res.leaks,
                    (unsigned long long)f->leaks);
    if (!bad)
        bad = co_own_check(s, BLK_FIX_LEAKS | BLK_FIX_ERRORS, &res);
    if (!bad && (res.corruptions || res.leaks || res.check_errors))
        bad = "our repair leaves something to repair";
    if (!bad)
        bad = check(s, f);
    if (!bad && (f->leaks || f->dirty))
        bad = words("repaired, the image has %llu leaks%s", (unsigned long long)f->leaks,
                    f->dirty ? ", and is marked dirty" : "");
    return bad;
}

static const char *co_look(const struct bench *b, uint64_t digest, const uint64_t **hashes)
{
    const struct subject *s = b->s;
    struct findings before;
    struct volume v;
    sim_reseed(digest, false);
    const char *bad = check(s, &before);
    if (bad)
        return bad;
    count_leaks(&before);
    if (s->create && sampled(digest, sampling.check, 4))
        bad = co_check_and_repair(s, &before);
    if (bad)
        return bad;
    bool qemu = s->create && !before.dirty && sampled(digest, sampling.qemu, 1);
    if (qemu)
        qemu_save();
    bad = co_open_and_read(b, &v);
    if (bad)
        return bad;
    *hashes = hashes_of(s);
    if (qemu) {
        stats.qemu++;
        bad = qemu_judge(s, content, &seen.heap);
    }
    if (sampled(digest, sampling.reuse, 2))
        return bad ? co_volume_close(&v), bad : co_reuse(b, &v, digest);
    co_volume_close(&v);
    return bad ? bad : check_again(s, &before);
}

static const struct outcome *co_outcome(const struct bench *b, const struct state *state)
{
    struct outcome *o = outcome_of(state->digest);
    if (o->digest)
        return o;
    seen.count++;
    stats.distinct++;
    o->digest = state->digest ? state->digest : 1;
    bench_put(b);
    state_put(state);
    o->bad = co_look(b, state->digest, &o->hashes);
    const char *leak = sim_leaks(false);
    if (!o->bad && leak)
        o->bad = leak;
    return o;
}

/* ---- against the promises ---- */

/* One walk over one run. */
struct judge {
    const struct bench *bench;
    const struct state *outer; /* NULL, or what was being reopened */
    unsigned reported;
};
#define MAX_REPORTS 3 /* of one run */

static bool report(struct judge *j, const struct state *state, const char *what)
{
    const char *outer = "";
    if (j->outer)
        outer = heap_printf(&scratch, "    then, while the image was reopened or repaired\n%s",
                            state_tell(state, &scratch));
    sim_fail("%s\n%s%s", what, state_tell(j->outer ? j->outer : state, &scratch), outer);
    heap_reset(&scratch);
    return ++j->reported < MAX_REPORTS;
}

/* What was read has to be read once more, to be told. */
static bool co_report_content(struct judge *j, const struct crash_walk *w,
                              const struct state *state, uint64_t sector)
{
    struct volume v;
    char text[400];
    bench_put(j->bench);
    state_put(state);
    if (!co_open_and_read(j->bench, &v))
        co_volume_close(&v);
    stamp_tell(content + sector * SECTOR, sector * SECTOR, text, sizeof(text));
    const char *promised = model_tell(w->model, w->kind, sector);
    return report(j, state,
                  heap_printf(&scratch, "what was promised is not there\n%s    read      %s",
                              promised, text));
}

static bool co_judge(struct crash_walk *w, const struct state *state, const struct outcome *o)
{
    uint64_t sector;
    if (o->bad)
        return report(w->arg, state, o->bad);
    if (model_allows(w->model, w->kind, o->hashes, &sector))
        return true;
    return co_report_content(w->arg, w, state, sector);
}

static bool misread(struct crash_walk *w, uint32_t op, const char *what)
{
    struct judge *j = w->arg;
    sim_fail("operation %u: %s", op, what);
    return ++j->reported < MAX_REPORTS;
}

/* ---- crashes of repairs ---- */

static struct record nested_record;

static bool co_visit_nested(struct crash_walk *w, const struct state *state)
{
    const struct judge *j = w->arg;
    return co_judge(w, state, co_outcome(j->bench, state));
}

/* What somebody does with the image on the media, recorded: opens and closes it, when that is what
 * repairs it; else has its leaks repaired, unless it began with thousands of them. */
static void co_record_repair(const struct bench *b)
{
    struct volume v;
    struct error err = {0};
    struct findings f;
    struct blk_check res;
    check(b->s, &f);
    record_reset(&nested_record);
    for (unsigned m = 0; m < MEDIA; m++)
        media[m].record = &nested_record;
    if (f.leaks && !b->leaks && !f.dirty)
        co_own_check(b->s, BLK_FIX_LEAKS | BLK_FIX_ERRORS, &res);
    else if (!co_volume_open(&v, b->open, b->s->restart_safe, &err))
        co_volume_close(&v);
    for (unsigned m = 0; m < MEDIA; m++)
        media[m].record = NULL;
}

static bool co_nested(const struct crash_walk *outer, const struct state *state)
{
    static struct heap heap, walk_heap;
    struct judge *j = outer->arg, inner = {.bench = j->bench, .outer = state};
    struct snapshot before;
    bench_put(j->bench);
    state_put(state);
    heap_reset(&heap);
    snapshot_take(&before, &heap);
    co_record_repair(j->bench);
    if (!nested_record.nchanges)
        return true;
    stats.nested++;
    struct crash_walk w = {.record = &nested_record,
                           .before = &before,
                           .model = outer->model,
                           .kind = outer->kind,
                           .how = {.all_subsets = 4, .samples = 1},
                           .heap = &walk_heap,
                           .rng = rng_seeded(state->digest, 3),
                           .co_visit = co_visit_nested,
                           .arg = &inner};
    bool good = co_crash_walk(&w);
    stats.points += w.counts.points;
    stats.states += w.counts.states;
    j->reported += inner.reported;
    return good;
}

static bool co_visit(struct crash_walk *w, const struct state *state)
{
    const struct judge *j = w->arg;
    uint64_t before = stats.distinct;
    const struct outcome *o = co_outcome(j->bench, state);
    if (!co_judge(w, state, o))
        return false;
    if (stats.distinct == before || o->bad || !sampled(state->digest, sampling.nested, 3))
        return true;
    return co_nested(w, state);
}

/* ---- one run ---- */

static struct heap model_heap;

static bool co_walk(const struct run *run, enum crash_kind kind, struct model *model)
{
    static struct heap heap;
    struct judge judge = {.bench = run->bench};
    heap_reset(&model_heap);
    model_start(model, run->record, run->bench->content, run->bench->s->size, &model_heap);
    struct crash_walk w = {.record = run->record,
                           .before = &run->bench->before,
                           .model = model,
                           .kind = kind,
                           .how = run->how,
                           .heap = &heap,
                           .rng = rng_seeded(run->seed, kind),
                           .co_visit = co_visit,
                           .misread = kind == POWER_CUT ? misread : NULL,
                           .arg = &judge};
    bool good = co_crash_walk(&w);
    stats.points += w.counts.points;
    stats.states += w.counts.states;
    return good && !judge.reported;
}

static uint8_t closed_content[MAX_VOLUME];

/* The media as the run left them, closed. */
static const char *co_closed(const struct run *run)
{
    const struct bench *b = run->bench;
    const struct subject *s = b->s;
    struct findings f;
    struct volume v;
    const char *bad = check(s, &f);
    if (bad)
        return words("closed, %s", bad);
    if (!run->faulty && (f.leaks > run->bench->leaks || f.dirty))
        return words("closed, the image has %llu leaks%s", (unsigned long long)f.leaks,
                     f.dirty ? ", and is marked dirty" : "");
    for (unsigned m = 0; m < MEDIA; m++)
        media[m].record = NULL;
    bad = co_open_and_read(b, &v);
    if (bad)
        return bad;
    co_volume_close(&v);
    memcpy(closed_content, content, align_up(s->size, SECTOR));
    return NULL;
}

static bool check_closed(const struct run *run, const struct model *model)
{
    enum crash_kind kind = run->faulty ? POWER_CUT : VM_DEATH;
    uint64_t sector;
    char text[400];
    memcpy(content, closed_content, align_up(run->bench->s->size, SECTOR));
    if (model_allows(model, kind, hashes_of(run->bench->s), &sector))
        return true;
    stamp_tell(content + sector * SECTOR, sector * SECTOR, text, sizeof(text));
    sim_fail("closed, and not what it was\n%s    read      %s\n", model_tell(model, kind, sector),
             text);
    return false;
}

bool co_verify_run(const struct run *run)
{
    struct model model;
    const char *bad = co_closed(run);
    if (bad)
        sim_fail("%s\n", bad);
    bool good = !bad && co_walk(run, POWER_CUT, &model) && check_closed(run, &model);
    if (good && run->bench->s->restart_safe)
        good = co_walk(run, VM_DEATH, &model);
    return good;
}
