/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a repair writes other than in place: the refcount structure from nothing, and the header.
 *
 * The new structure is one run of clusters that nobody refers to, behind the end of the file where it
 * can grow. Blocks follow each other, one for each that the file needs, so that they are in sum one
 * array of refcounts: window after window is counted (without the old structure, with the new one)
 * and written to its place.
 *
 *     area   | table ... | block 0 | block 1 | ... | block n-1 |
 *
 * Old structure and header are not touched before everything is written and flushed; then one write
 * into the header's first sector switches. Nothing is left of the old structure: it was not counted.
 * Whatever fails before, the image is as it was.
 *
 * On a disk of fixed size, and where references to what would be there would come true, the area lies
 * behind the last cluster that is used or counted, else in the first hole that is large enough.
 */
#include "formats/qcow2/check.h"

#include <stddef.h>

/* ---- the place ---- */

struct layout {
    uint64_t at, table, blocks; /* clusters: the first one, and how many */
};

static uint64_t round_up_div(uint64_t a, uint64_t b)
{
    return (a + b - 1) / b;
}

/* The table covers everything in use, itself included. */
static struct layout lay_out(const struct check *c, uint64_t at)
{
    struct layout l = {.at = at, .blocks = 1, .table = 1};
    for (;;) {
        uint64_t end = MAX(at + l.table + l.blocks, c->highest);
        uint64_t blocks = round_up_div(end, (8 * c->cluster) >> c->order);
        uint64_t table = round_up_div(8 * blocks, c->cluster);
        if (blocks <= l.blocks && table <= l.table)
            return l;
        l.blocks = MAX(blocks, l.blocks);
        l.table = MAX(table, l.table);
    }
}

static uint64_t end_of(const struct layout *l)
{
    return l->at + l->table + l->blocks;
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
    c->hole = (struct hole){.want = l->table + l->blocks};
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
    *l = lay_out(c, c->clusters);
    int r = co_grow(c, l);
    if (r == SR_ENOSPC)
        r = co_place_inside(c, l);
    else if (r)
        error_set(c->err, r, "Could not resize the image: %s", sr_strerror(r));
    if (!r && l->table << c->bits > QCOW2_MAX_REFTABLE_BYTES)
        return error_set(c->err, SR_EOVERFLOW, "The image is too large for its refcounts");
    return r;
}

/* ---- writing it ---- */

static int co_write_window(struct check *c)
{
    uint64_t byte = (c->lo << c->order) / 8, end = c->blocks_bytes;
    return co_check_write(c, c->blocks_off + byte, c->window,
                          (size_t)MIN(end - byte, c->window_size));
}

static int co_write_blocks(struct check *c, const struct layout *l)
{
    c->no_refs = true;
    c->area = l->at << c->bits;
    c->area_bytes = (l->table + l->blocks) << c->bits;
    c->blocks_off = (l->at + l->table) << c->bits;
    c->blocks_bytes = l->blocks << c->bits;
    int r = co_each_window(c, 8 * c->blocks_bytes >> c->order, co_write_window);
    c->no_refs = false;
    c->area_bytes = 0;
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

/* Adjacent fields, in one sector. */
static int co_switch(struct check *c, const struct layout *l)
{
    struct {
        be64 offset;
        be32 clusters;
    } field;
    static_assert(offsetof(struct qcow2_header, refcount_table_clusters) ==
                      offsetof(struct qcow2_header, refcount_table_offset) + 8,
                  "written as one");
    be64_set(&field.offset, l->at << c->bits);
    be32_set(&field.clusters, (uint32_t)l->table);
    int r = co_check_write(c, offsetof(struct qcow2_header, refcount_table_offset), &field,
                           sizeof(field));
    if (!r)
        r = co_check_flush(c);
    if (r)
        return r;
    c->img->reftable_offset = l->at << c->bits;
    c->img->reftable_bytes = l->table << c->bits;
    c->bad_reftable = false;
    return 0;
}

int co_rebuild(struct check *c)
{
    struct layout l = {0};
    int r = co_place(c, &l);
    if (!r)
        r = co_write_blocks(c, &l);
    if (!r)
        r = co_write_table(c, &l);
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

/* "Software that doesn't know about this bit can ignore it, but must clear it when it modifies the
 * image." */
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
