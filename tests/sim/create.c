/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Crashes while an image is made over another one: what is left is the old image, the new one, or none
 * (the first sector is zero); never something that opens and is neither.
 */
#include "tests/sim/run.h"

#include <stdio.h>

struct remains {
    const struct bench *bench;
    const uint8_t *fresh; /* content of the new image */
    unsigned reported;
};

static bool is_none(void)
{
    static const uint8_t zeroes[SECTOR];
    return !memcmp(media[MEDIUM_FILE].data, zeroes, SECTOR) || !media[MEDIUM_FILE].size;
}

static const char *co_which(const struct remains *r)
{
    static uint8_t content[1u << 20];
    struct volume v;
    struct error err = {0};
    struct findings f = {0};
    size_t size = (size_t)r->bench->s->size;
    r->bench->s->check(&f);
    if (f.corruptions)
        return "what is left is corrupt";
    if (co_volume_open(&v, r->bench->open, false, &err))
        return "what is left does not open";
    int e = co_volume_read_all(&v, content, 65536);
    co_volume_close(&v);
    if (e)
        return "what is left cannot be read";
    bool is_old = !memcmp(content, r->bench->content, size);
    return is_old || !memcmp(content, r->fresh, size) ? NULL : "neither the old image nor the new";
}

static bool co_visit(struct crash_walk *w, const struct state *state)
{
    struct remains *r = w->arg;
    struct heap h = {0};
    bench_put(r->bench);
    state_put(state);
    const char *bad = is_none() ? NULL : co_which(r);
    if (bad) {
        sim_fail("%s\n%s", bad, state_tell(state, &h));
        heap_free(&h);
    }
    return !bad;
}

static const uint8_t *co_fresh_content(const struct bench *b)
{
    uint8_t *content = heap_zalloc(&the_record.heap, b->s->size);
    struct volume v;
    struct error err = {0};
    if (co_volume_open(&v, b->open, false, &err)) {
        sim_fail("the new image does not open: %s\n", err.msg);
        return NULL;
    }
    co_volume_read_all(&v, content, 65536);
    co_volume_close(&v);
    return content;
}

bool co_create_case(const struct bench *b)
{
    static struct heap heap, model_heap;
    struct error err = {0};
    struct model model;
    snprintf(sim_current, SIM_NAME_MAX, "%s:create", b->s->name);
    run_start(b, 1, false, 1000);
    stats.runs++;
    if (co_subject_create(b->s, &err)) {
        sim_fail("the image cannot be made: %s\n", err.msg);
        return false;
    }
    run_stop();
    struct remains r = {.bench = b, .fresh = co_fresh_content(b)};
    if (!r.fresh)
        return false;
    heap_reset(&model_heap);
    model_start(&model, &the_record, b->content, b->s->size, &model_heap);
    struct crash_walk w = {.record = &the_record,
                           .before = &b->before,
                           .model = &model,
                           .how = {.all_subsets = 6, .samples = 4},
                           .heap = &heap,
                           .rng = rng_seeded(1, 1),
                           .co_visit = co_visit,
                           .arg = &r};
    bool good = co_crash_walk(&w);
    stats.points += w.counts.points;
    stats.states += w.counts.states;
    return good;
}
