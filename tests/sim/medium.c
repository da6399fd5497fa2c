/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The node driver "sim", and the media below it. See medium.h.
 */
#include "tests/sim/medium.h"
#include "tests/sim/stamp.h"

#include <stdlib.h>

struct medium media[MEDIA];
const char *const medium_names[MEDIA] = {"file", "data", "backing"};

static const uint8_t zero_sector[SECTOR];
const struct version zero_version = {.hash = 0, .data = zero_sector};

static struct version version_of(const uint8_t *data)
{
    return (struct version){sector_hash(data), data};
}

struct version junk_version(struct heap *h, uint64_t off)
{
    uint8_t *p = heap_alloc(h, SECTOR);
    stamp_fill(p, SEQ_JUNK, off, SECTOR);
    return version_of(p);
}

void medium_reset(struct medium *m, uint64_t size, uint64_t capacity, struct traits t)
{
    enum medium_id id = (enum medium_id)(m - media);
    ASSERT(!m->opened && !m->inflight);
    capacity = align_up(capacity, SECTOR);
    uint8_t *data = m->data;
    if (!data || m->capacity != capacity) {
        free(data);
        data = malloc(capacity + 1);
    }
    *m = (struct medium){.id = id, .data = data, .size = size, .capacity = capacity, .traits = t};
}

/* ---- opening ---- */

struct sim_options {
    int disk;
};
static const char *const disk_names[] = {"file", "data", "backing", NULL};
static const struct type type_disk = TYPE_ENUM_OF("SimDisk", disk_names);
static const struct field sim_fields[] = {
    FIELD_REQ(struct sim_options, disk, "disk", &type_disk, "Which medium"),
    {0},
};
static const struct type sim_type =
    TYPE_STRUCT_OF("BlockdevOptionsSim", struct sim_options, sim_fields);

struct sim_node {
    struct medium *m;
};

static struct medium *medium_of(const struct node *n)
{
    return ((const struct sim_node *)n->state)->m;
}

static int co_sim_open(struct node *n, const void *opts, struct error *err)
{
    const struct sim_options *o = opts;
    struct medium *m = &media[o->disk];
    if (!m->capacity)
        return error_set(err, SR_ENOENT, "No medium '%s'", disk_names[o->disk]);
    ((struct sim_node *)n->state)->m = m;
    m->opened++;
    m->lost = false;
    n->size = m->size;
    n->limits = (struct blk_limits){.request_alignment = m->traits.align};
    n->write_flags = m->traits.fua ? BLK_FUA : 0;
    n->zero_flags = m->traits.zeroes ? n->write_flags | BLK_MAY_UNMAP | BLK_NO_FALLBACK : 0;
    return 0;
}

static void co_sim_close(struct node *n)
{
    struct medium *m = medium_of(n);
    ASSERT(m->opened && !m->inflight);
    m->opened--;
}

/* ---- waiting, failing ---- */

/* Most requests take their time; some are done before anybody looks, some are forgotten for long. */
static void co_latency(const struct medium *m, enum sim_op on)
{
    struct rng *r = sim_rng();
    if (!m->latency_ns || rng_one_in(r, 8))
        return;
    uint64_t ns = 1 + rng_below(r, m->latency_ns);
    co_sleep_ns(m->slow[on] && rng_one_in(r, m->slow[on]) ? 50 * ns : ns);
}

/* 0, or the error that this request has to fail with. */
static int begin(struct medium *m, enum sim_op on)
{
    const struct sim_fault *f = &m->faults[on];
    uint64_t n = ++m->asked[on];
    m->inflight++;
    m->changes += on == ON_WRITE || on == ON_TRUNCATE;
    if (!f->nth || n < f->nth || (n > f->nth && !f->stays))
        return 0;
    m->fired++;
    return f->error;
}

static int end(struct medium *m, int error)
{
    m->inflight--;
    return error;
}

/* ---- the record ---- */

static uint32_t note_request(struct medium *m, enum request_kind kind, unsigned flags)
{
    struct request q = {.kind = (uint8_t)kind, .medium = (uint8_t)m->id, .fua = flags & BLK_FUA};
    return m->record ? record_request(m->record, q) : 0;
}

static void note_answer(struct medium *m, uint32_t request, int error)
{
    if (m->record)
        record_answer(m->record, request, error != 0);
}

/* ---- reading ---- */

/* Behind the size there are zeroes, up to the alignment. */
static void read_out(const struct medium *m, uint64_t off, struct iov v)
{
    size_t have = off < m->size ? (size_t)MIN(v.len, m->size - off) : 0;
    iov_copy_in(v, 0, m->data + off, have);
    iov_fill(v, have, 0, v.len - have);
}

static int co_sim_preadv(struct node *n, uint64_t off, struct iov v, unsigned flags)
{
    struct medium *m = medium_of(n);
    (void)flags;
    int error = begin(m, ON_READ);
    co_latency(m, ON_READ);
    if (!error)
        read_out(m, off, v);
    co_latency(m, ON_READ);
    return end(m, error);
}

/* ---- writing ---- */

/* A write on its way: `len` bytes at `off` that `bytes` gives. */
struct writing {
    struct medium *m;
    uint64_t off;
    size_t len;
    enum request_kind kind;
    struct iov v;           /* of REQ_WRITE */
    uint32_t request;       /* in the record */
    uint32_t first, second; /* its changes; NEVER: none */
    uint8_t *sample;        /* what it wrote as of `first` */
};

static bool whole_sectors(const struct writing *w)
{
    return is_aligned(w->off | w->len, SECTOR);
}

static void write_bytes(const struct writing *w, uint8_t *to)
{
    if (w->kind == REQ_WRITE)
        iov_copy_out(to, w->v, 0, w->len);
    else if (w->kind == REQ_ZERO || w->m->traits.clears)
        memset(to, 0, w->len);
    else
        stamp_fill(to, SEQ_JUNK, w->off, w->len);
}

/* The sectors that w touches, with its bytes in them. */
static uint8_t *sectors_of(const struct writing *w, uint64_t start, size_t bytes)
{
    uint8_t *p = heap_alloc(&w->m->record->heap, bytes);
    if (!whole_sectors(w))
        memcpy(p, w->m->data + start, bytes);
    write_bytes(w, p + (w->off - start));
    return p;
}

static uint32_t note_change(struct writing *w)
{
    uint64_t start = align_down(w->off, SECTOR), stop = align_up(w->off + w->len, SECTOR);
    uint32_t count = (uint32_t)((stop - start) / SECTOR);
    struct version *v = heap_alloc(&w->m->record->heap, count * sizeof(*v));
    w->sample = sectors_of(w, start, stop - start);
    for (uint32_t i = 0; i < count; i++)
        v[i] = version_of(w->sample + i * SECTOR);
    return record_change(w->m->record, (struct change){.request = w->request,
                                                       .sector = (uint32_t)(start / SECTOR),
                                                       .count = count,
                                                       .v = v});
}

/* Readers see it. A buffer that is not what it was has made another change. */
static void take_effect(struct writing *w)
{
    struct medium *m = w->m;
    write_bytes(w, m->data + w->off);
    if (!m->record)
        return;
    if (w->first == NEVER)
        w->first = note_change(w);
    else if (memcmp(w->sample, m->data + w->off, w->len))
        w->second = note_change(w);
    record_effect(m->record, w->first);
    if (w->second != NEVER)
        record_effect(m->record, w->second);
}

/* One that fails has written nothing, or what comes before some sector. */
static void fail_some(struct writing *w)
{
    unsigned sectors = (unsigned)(w->len / SECTOR) + 1;
    uint64_t end = align_down(w->off + rng_below(sim_rng(), sectors) * SECTOR, SECTOR);
    w->len = end > w->off && rng_one_in(sim_rng(), 2) ? MIN(w->len, end - w->off) : 0;
}

static int co_write(struct writing *w, unsigned flags)
{
    struct medium *m = w->m;
    int error = begin(m, ON_WRITE);
    w->request = note_request(m, w->kind, flags);
    w->first = w->second = NEVER;
    if (error)
        fail_some(w);
    if (w->len && m->record && whole_sectors(w))
        w->first = note_change(w);
    co_latency(m, ON_WRITE);
    if (w->len)
        take_effect(w);
    co_latency(m, ON_WRITE);
    note_answer(m, w->request, error);
    return end(m, error);
}

static int co_sim_pwritev(struct node *n, uint64_t off, struct iov v, unsigned flags)
{
    struct writing w = {.m = medium_of(n), .off = off, .len = v.len, .kind = REQ_WRITE, .v = v};
    ASSERT(!(flags & ~n->write_flags));
    return co_write(&w, flags);
}

static int co_sim_pwrite_zeroes(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    struct writing w = {.m = medium_of(n), .off = off, .len = len, .kind = REQ_ZERO};
    if (!w.m->traits.zeroes)
        return SR_ENOTSUP;
    return co_write(&w, flags);
}

static int co_sim_pdiscard(struct node *n, uint64_t off, uint64_t len)
{
    struct writing w = {.m = medium_of(n), .off = off, .len = len, .kind = REQ_DISCARD};
    if (!w.m->traits.discards)
        return SR_ENOTSUP;
    return co_write(&w, 0);
}

/* ---- size, flush ---- */

static void set_size(struct medium *m, uint64_t size)
{
    if (size > m->size)
        memset(m->data + m->size, 0, size - m->size);
    m->size = size;
}

static int co_sim_truncate(struct node *n, uint64_t size)
{
    struct medium *m = medium_of(n);
    if (!m->traits.growable)
        return SR_ENOTSUP;
    uint32_t change = NEVER;
    int error = begin(m, ON_TRUNCATE);
    uint32_t request = note_request(m, REQ_TRUNCATE, 0);
    if (!error && size > m->capacity)
        error = SR_ENOSPC;
    if (!error && m->record)
        change = record_change(m->record, (struct change){.request = request, .size = size});
    co_latency(m, ON_TRUNCATE);
    if (!error)
        set_size(m, size);
    if (change != NEVER)
        record_effect(m->record, change);
    co_latency(m, ON_TRUNCATE);
    note_answer(m, request, error);
    return end(m, error);
}

static int co_sim_flush(struct node *n)
{
    struct medium *m = medium_of(n);
    int error = begin(m, ON_FLUSH);
    if (m->traits.growable && (error || m->lost)) {
        m->lost = true;
        error = SR_EIO;
    }
    uint32_t request = note_request(m, REQ_FLUSH, 0);
    co_latency(m, ON_FLUSH);
    co_latency(m, ON_FLUSH);
    note_answer(m, request, error);
    return end(m, error);
}

static int co_sim_status(struct node *n, uint64_t off, uint64_t len, struct blk_status *st)
{
    (void)n;
    st->flags = BLK_DATA | BLK_OFFSET_VALID;
    st->map = off;
    st->len = len;
    return 0;
}

static const struct blk_driver blk_sim = {
    .name = "sim",
    .options = &sim_type,
    .state_size = sizeof(struct sim_node),
    .protocol = true,
    .co_open = co_sim_open,
    .co_close = co_sim_close,
    .co_preadv = co_sim_preadv,
    .co_pwritev = co_sim_pwritev,
    .co_pwrite_zeroes = co_sim_pwrite_zeroes,
    .co_pdiscard = co_sim_pdiscard,
    .co_truncate = co_sim_truncate,
    .co_flush = co_sim_flush,
    .co_block_status = co_sim_status,
};
REGISTER(blk_driver, blk_sim);
