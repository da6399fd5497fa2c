/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a repair writes other than in place: the refcount structure from nothing, the snapshot table
 * where it lacks what version 3 requires, and the header.
 *
 * What is new is one run of clusters that nobody refers to, behind the end of the file where that can
 * grow. Blocks follow each other, one for each that the file needs, so that they are in sum one array
 * of refcounts: window after window is counted (without what is replaced, with what is new) and
 * written to its place.
 *
 *     area   | table ... | block 0 | block 1 | ... | block n-1 | snapshot table |
 *
 * What is old is not touched before everything is written and flushed; then one write into the
 * header's first sector switches. Nothing is leaked: what is old was not counted. Where references
 * were lost, what has a refcount keeps it. Whatever fails before, the image is as it was.
 *
 * On a disk of fixed size, and where references to what would be there would come true, the area lies
 * behind the last cluster that is used or counted, else in the first hole that is large enough.
 */
#include "formats/qcow2/check.h"

#include <stddef.h>

/* ---- the place ---- */

static uint64_t round_up_div(uint64_t a, uint64_t b)
{
    return (a + b - 1) / b;
}

static uint64_t clusters_of(const struct layout *l)
{
    return l->table + l->blocks + l->snapshots;
}

static uint64_t end_of(const struct layout *l)
{
    return l->at + clusters_of(l);
}

/* An entry that is short grows by what it lacks. */
static uint64_t snapshots_bytes(const struct check *c)
{
    return c->img->snapshots_bytes + c->short_snapshots * (QCOW2_SNAPSHOT_EXTRA_V3 + 8);
}

/* The table covers everything in use, itself included. */
static struct layout lay_out(const struct check *c, uint64_t at)
{
    struct layout l = {.at = at, .blocks = 1, .table = 1};
    if (c->short_snapshots)
        l.snapshots = round_up_div(snapshots_bytes(c), c->cluster);
    for (;;) {
        uint64_t end = MAX(end_of(&l), c->highest);
        uint64_t blocks = round_up_div(end, (8 * c->cluster) >> c->order);
        uint64_t table = round_up_div(8 * blocks, c->cluster);
        if (blocks <= l.blocks && table <= l.table)
            return l;
        l.blocks = MAX(blocks, l.blocks);
        l.table = MAX(table, l.table);
    }
}

/* The first run of `want` clusters that are free. Where something was lost, the old refcounts have a
 * say in what is, too. */
static int co_find_hole(struct check *c)
{
    int r = c->lost ? co_check_add_stored(c) : 0;
    for (uint64_t k = c->lo; k < c->hi && c->hole.n < c->hole.want; k++) {
        if (refs_get(c->window, c->order, k - c->lo))
            c->hole.n = 0;
        else if (!c->hole.n++)
            c->hole.at = k;
    }
    return r;
}

static int co_place_inside(struct check *c, struct layout *l)
{
    uint64_t whole = c->size >> c->bits;
    *l = lay_out(c, c->highest);
    if (end_of(l) <= whole)
        return 0;
    *l = lay_out(c, 0);
    c->hole = (struct hole){.want = clusters_of(l)};
    int r = co_each_window(c, whole, co_find_hole);
    if (!r && c->hole.n < c->hole.want)
        r = error_set(c->err, SR_ENOSPC, "There is no room for new refcounts");
    l->at = c->hole.at;
    return r;
}

static int co_grow(struct check *c, const struct layout *l)
{
    if (end_of(l) > c->outside)
        return SR_ENOSPC;
    int r = co_blk_truncate(c->file, end_of(l) << c->bits);
    if (!r) {
        c->size = c->file->node->size;
        c->clusters = (c->size + c->cluster - 1) >> c->bits;
    }
    return r;
}

static int co_place(struct check *c, struct layout *l)
{
    *l = lay_out(c, MAX(c->clusters, c->highest)); /* a table may end right behind the file */
    int r = co_grow(c, l);
    if (r == SR_ENOSPC)
        r = co_place_inside(c, l);
    else if (r)
        error_set(c->err, r, "Could not resize the image: %s", sr_strerror(r));
    if (!r && (l->table << c->bits > QCOW2_MAX_REFTABLE_BYTES ||
               snapshots_bytes(c) > QCOW2_MAX_SNAPSHOTS_BYTES))
        return error_set(c->err, SR_EOVERFLOW, "The image is too large for its tables");
    return r;
}

/* ---- writing it ---- */

static int co_write_window(struct check *c)
{
    uint64_t at = (c->area.at + c->area.table) << c->bits, end = c->area.blocks << c->bits;
    uint64_t byte = (c->lo << c->order) / 8;
    int r = c->lost ? co_check_add_stored(c) : 0;
    return r ? r : co_check_write(c, at + byte, c->window, (size_t)MIN(end - byte, c->window_size));
}

static int co_write_blocks(struct check *c, const struct layout *l)
{
    c->area = *l;
    c->renew = true;
    int r = co_each_window(c, 8 * (l->blocks << c->bits) >> c->order, co_write_window);
    c->renew = false;
    return r;
}

static int co_write_table(struct check *c, const struct layout *l)
{
    uint64_t bytes = l->table << c->bits;
    for (uint64_t at = 0; at < bytes; at += CHECK_CHUNK) {
        size_t len = (size_t)MIN(bytes - at, CHECK_CHUNK);
        be64 *e = (be64 *)c->block;
        for (uint64_t i = 0; i < len / 8; i++) {
            uint64_t block = at / 8 + i;
            be64_set(e + i, block < l->blocks ? (l->at + l->table + block) << c->bits : 0);
        }
        int r = co_check_write(c, (l->at << c->bits) + at, e, len);
        if (r)
            return r;
    }
    return 0;
}

/* ---- snapshots ---- */

/* c->block has the entry up to its names: gives it the extra data that version 3 requires. Bytes. */
static size_t complete_entry(struct check *c, size_t extra)
{
    struct qcow2_snapshot *h = (struct qcow2_snapshot *)c->block;
    be64 *field = (be64 *)(h + 1);
    if (extra < 8)
        be64_set(&field[0], be32_get(h->vm_state_size));
    if (extra < QCOW2_SNAPSHOT_EXTRA_V3)
        be64_set(&field[1], c->img->size);
    extra = MAX(extra, QCOW2_SNAPSHOT_EXTRA_V3);
    be32_set(&h->extra_data_size, (uint32_t)extra);
    return sizeof(*h) + extra;
}

static int co_copy(struct check *c, uint64_t from, uint64_t to, uint64_t len)
{
    int r = 0;
    for (uint64_t at = 0; at < len && !r; at += CHECK_CHUNK) {
        size_t part = (size_t)MIN(len - at, CHECK_CHUNK);
        r = co_check_read(c, from + at, c->block, part);
        if (!r)
            r = co_check_write(c, to + at, c->block, part);
    }
    return r;
}

static int co_write_snapshots(struct check *c, uint64_t to)
{
    uint64_t off = c->img->snapshots_offset;
    for (uint32_t i = 0; i < c->img->nb_snapshots; i++) {
        struct qcow2_snapshot h;
        uint64_t from = align_up(off, 8);
        int r = co_next_snapshot(c, i, &off, &h);
        size_t len = sizeof(h) + (r ? 0 : be32_get(h.extra_data_size));
        if (!r)
            r = co_check_read(c, from, c->block, len);
        if (r)
            return r;
        from += len;
        len = complete_entry(c, len - sizeof(h));
        to = align_up(to, 8);
        r = co_check_write(c, to, c->block, len);
        if (!r)
            r = co_copy(c, from, to + len, off - from);
        if (r)
            return r;
        to += len + (off - from);
    }
    return 0;
}

/* ---- the switch ---- */

static int co_switch(struct check *c, const struct layout *l)
{
    struct qcow2_image *img = c->img;
    struct {
        be64 reftable_offset;
        be32 reftable_clusters, nb_snapshots;
        be64 snapshots_offset;
    } field;
    size_t at = offsetof(struct qcow2_header, refcount_table_offset);
    static_assert(offsetof(struct qcow2_header, snapshots_offset) + 8 -
                          offsetof(struct qcow2_header, refcount_table_offset) ==
                      sizeof(field),
                  "the same fields");
    uint64_t snapshots = l->snapshots ? end_of(l) - l->snapshots : 0;
    be64_set(&field.reftable_offset, l->at << c->bits);
    be32_set(&field.reftable_clusters, (uint32_t)l->table);
    be32_set(&field.nb_snapshots, img->nb_snapshots);
    be64_set(&field.snapshots_offset, snapshots ? snapshots << c->bits : img->snapshots_offset);
    int r = co_check_write(c, at, &field, sizeof(field));
    if (!r)
        r = co_check_flush(c);
    if (r)
        return r;
    img->reftable_offset = l->at << c->bits;
    img->reftable_bytes = l->table << c->bits;
    img->snapshots_offset = be64_get(field.snapshots_offset);
    c->bad_reftable = false;
    return co_measure_snapshots(c);
}

int co_rebuild(struct check *c)
{
    struct layout l = {0};
    int r = co_place(c, &l);
    if (!r)
        r = co_write_blocks(c, &l);
    if (!r)
        r = co_write_table(c, &l);
    if (!r && l.snapshots)
        r = co_write_snapshots(c, (end_of(&l) - l.snapshots) << c->bits);
    if (!r)
        r = co_check_flush(c);
    return r ? r : co_switch(c, &l);
}

/* ---- bits in the header ---- */

static int co_write_features(struct check *c, size_t field, uint64_t value)
{
    be64 v;
    be64_set(&v, value);
    return c->img->version < 3 ? 0 : co_check_write(c, field, &v, sizeof(v));
}

/* "An implementation may only write to an image with unknown auto-clear features if it clears the
 * respective bits from this field first." */
int co_prepare_header(struct check *c)
{
    uint64_t known = QCOW2_AUTOCLEAR_BITMAPS | QCOW2_AUTOCLEAR_DATA_FILE_RAW;
    if (c->changed)
        return 0;
    c->changed = true;
    if (!(c->img->autoclear & ~known))
        return 0;
    int r = co_write_features(c, offsetof(struct qcow2_header, autoclear_features),
                              c->img->autoclear & known);
    return r ? r : co_check_flush(c);
}

/* Nothing is wrong any more. */
int co_clear_bits(struct check *c)
{
    uint64_t bits = QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT;
    int r = co_check_flush(c);
    if (r || !(c->img->incompatible & bits))
        return r;
    r = co_write_features(c, offsetof(struct qcow2_header, incompatible_features),
                          c->img->incompatible & ~bits);
    return r ? r : co_check_flush(c);
}
