/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A format of the simulator's own, small enough to be right at a glance, and wrong on demand: so that
 * it can be seen that the simulator finds nothing where nothing is, and something where something is.
 *
 *     0                           1024
 *     | map: two sectors, each    | slots of 1 KiB |
 *     | generation, be32 [ENTRIES]|
 *
 * Block i of the volume is slot map[i] - 1; 0 is zeroes. The map is in memory; a flush flushes (the
 * data), writes the map, and flushes. Each entry is good by itself, so the map may be torn. A slot that
 * is no longer mapped is given out again when that is stable and nobody reads it any more.
 */
#include "tests/sim/toy.h"
#include "tests/sim/util.h"

#include <stdio.h>

#define BLOCK       1024u
#define ENTRIES     16u /* of a sector of the map */
#define BLOCKS      (2 * ENTRIES)
#define SLOTS       (BLOCKS + 8)
#define DATA        (2 * SECTOR)

#define TOY_NAME(d) #d,
static const char *const defect_names[] = {TOY_DEFECTS(TOY_NAME) NULL};
static const struct type type_defect = TYPE_ENUM_OF("ToyDefect", defect_names);
struct toy_options {
    struct schema_ref file;
    int defect;
};
static const struct field toy_fields[] = {
    FIELD_REQ(struct toy_options, file, "file", &type_blockdev_ref, "Where it lies"),
    FIELD_DEF(struct toy_options, defect, "defect", &type_defect, "none", "What is wrong with it"),
    {0},
};
static const struct type toy_type =
    TYPE_STRUCT_OF("BlockdevOptionsToy", struct toy_options, toy_fields);

enum use { FREE, TAKEN, LEAVING };
struct toy {
    enum toy_defect defect;
    uint8_t map[2 * SECTOR]; /* as on the disk */
    bool dirty;
    uint8_t use[SLOTS]; /* enum use */
    uint8_t readers[SLOTS];
    struct co_mutex lock;
    uint8_t block[BLOCK]; /* under the lock */
};

/* ---- the map ---- */

static uint8_t *entry(struct toy *t, unsigned i)
{
    return t->map + i / ENTRIES * SECTOR + 4 + i % ENTRIES * 4;
}

static unsigned slot_of(struct toy *t, unsigned i)
{
    return (unsigned)get_be(entry(t, i), 4);
}

static uint64_t place(unsigned slot)
{
    return DATA + (slot - 1) * (uint64_t)BLOCK;
}

static unsigned take_slot(struct toy *t)
{
    for (unsigned i = 0; i < SLOTS; i++)
        if (t->use[i] == FREE && (!t->readers[i] || t->defect == TOY_grace)) {
            t->use[i] = TAKEN;
            return i + 1;
        }
    return 0;
}

static void set_entry(struct toy *t, unsigned i, unsigned slot)
{
    unsigned old = slot_of(t, i);
    if (old)
        t->use[old - 1] = t->defect == TOY_reuse ? FREE : LEAVING;
    put_be(entry(t, i), 4, slot);
    t->dirty = true;
}

static void co_lock(struct toy *t)
{
    if (t->defect != TOY_lock)
        co_mutex_lock(&t->lock);
}

static void unlock(struct toy *t)
{
    if (t->defect != TOY_lock)
        co_mutex_unlock(&t->lock);
}

/* ---- requests ---- */

/* The part of a request that lies in one block. */
struct part {
    unsigned block, in;
    struct iov v;
};
static struct part next_part(uint64_t off, struct iov v)
{
    struct part p = {.block = (unsigned)(off / BLOCK), .in = off % BLOCK};
    p.v = iov_slice(v, 0, MIN(v.len, BLOCK - p.in));
    return p;
}

static int co_read_part(struct node *n, struct part p)
{
    struct toy *t = n->state;
    unsigned slot = slot_of(t, p.block);
    if (!slot) {
        iov_fill(p.v, 0, 0, p.v.len);
        return 0;
    }
    t->readers[slot - 1]++;
    int r = co_blk_preadv(n->file, place(slot) + p.in, p.v, 0);
    t->readers[slot - 1]--;
    return r;
}

static int co_first_write(struct node *n, struct part p)
{
    struct toy *t = n->state;
    unsigned slot = take_slot(t);
    struct seg seg;
    if (!slot)
        return SR_ENOSPC;
    memset(t->block, 0, BLOCK);
    iov_copy_out(t->block + p.in, p.v, 0, p.v.len);
    int r = t->defect == TOY_padding
                ? co_blk_pwritev(n->file, place(slot) + p.in, p.v, 0)
                : co_blk_pwritev(n->file, place(slot), iov_one(&seg, t->block, BLOCK), 0);
    if (r)
        t->use[slot - 1] = FREE;
    else
        set_entry(t, p.block, slot);
    return r;
}

static int co_write_part(struct node *n, struct part p, unsigned flags)
{
    struct toy *t = n->state;
    co_lock(t);
    unsigned slot = slot_of(t, p.block);
    int r = slot ? co_blk_pwritev(n->file, place(slot) + p.in, p.v, flags) : co_first_write(n, p);
    unlock(t);
    return r;
}

static int co_toy_preadv(struct node *n, uint64_t off, struct iov v, unsigned flags)
{
    int r = 0;
    (void)flags;
    while (v.len && !r) {
        struct part p = next_part(off, v);
        r = co_read_part(n, p);
        off += p.v.len;
        v = iov_slice(v, p.v.len, v.len - p.v.len);
    }
    return r;
}

static int co_toy_pwritev(struct node *n, uint64_t off, struct iov v, unsigned flags)
{
    const struct toy *t = n->state;
    int r = 0;
    if (t->defect == TOY_leak)
        page_alloc(PAGE_SIZE);
    while (v.len && !r) {
        struct part p = next_part(off, v);
        r = co_write_part(n, p, flags);
        off += p.v.len;
        v = iov_slice(v, p.v.len, v.len - p.v.len);
    }
    return r;
}

static int co_toy_pwrite_zeroes(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    struct toy *t = n->state;
    (void)flags;
    co_lock(t);
    for (uint64_t at = off; at < off + len; at += BLOCK)
        set_entry(t, (unsigned)(at / BLOCK), 0);
    if (t->defect != TOY_stuck || off)
        unlock(t);
    return 0;
}

static int co_toy_pdiscard(struct node *n, uint64_t off, uint64_t len)
{
    return co_toy_pwrite_zeroes(n, off, len, 0);
}

/* ---- flush ---- */

/* What leaves while the map is on its way waits for the next. */
static int co_write_map(struct node *n)
{
    struct toy *t = n->state;
    bool leaving[SLOTS];
    for (unsigned i = 0; i < SLOTS; i++)
        leaving[i] = t->use[i] == LEAVING;
    for (unsigned i = 0; i < 2; i++)
        put_be(t->map + i * SECTOR, 4, get_be(t->map, 4) + !i);
    t->dirty = false;
    int r = co_blk_pwrite(n->file, 0, t->map, sizeof(t->map), 0);
    if (!r && t->defect != TOY_below)
        r = co_blk_flush(n->file);
    for (unsigned i = 0; i < SLOTS && !r; i++)
        if (leaving[i])
            t->use[i] = FREE;
    t->dirty |= r != 0;
    return r;
}

static int co_toy_flush(struct node *n)
{
    struct toy *t = n->state;
    co_lock(t);
    int r = t->defect == TOY_order ? 0 : co_blk_flush(n->file);
    if (!r && t->dirty && t->defect != TOY_nomap)
        r = co_write_map(n);
    unlock(t);
    return r;
}

/* ---- opening ---- */

static int co_toy_open(struct node *n, const void *opts, struct error *err)
{
    const struct toy_options *o = opts;
    struct toy *t = n->state;
    int r = co_child_open(n, "file", &o->file, true, &n->file, err);
    if (r)
        return r;
    r = co_blk_pread(n->file, 0, t->map, sizeof(t->map));
    t->defect = (enum toy_defect)o->defect;
    if (!r && t->defect == TOY_torn && memcmp(t->map, t->map + SECTOR, 4))
        return error_set(err, SR_EIO, "the map's sectors are of different generations");
    for (unsigned i = 0; i < BLOCKS && !r; i++)
        if (slot_of(t, i))
            t->use[slot_of(t, i) - 1] = TAKEN;
    co_mutex_init(&t->lock);
    n->size = BLOCKS * BLOCK;
    n->limits.write_zeroes_alignment = n->limits.discard_alignment = BLOCK;
    n->write_flags = t->defect == TOY_fua ? BLK_FUA : 0;
    n->zero_flags = BLK_MAY_UNMAP;
    return r;
}

static const struct blk_driver blk_toy = {
    .name = "toy",
    .options = &toy_type,
    .state_size = sizeof(struct toy),
    .co_open = co_toy_open,
    .co_preadv = co_toy_preadv,
    .co_pwritev = co_toy_pwritev,
    .co_pwrite_zeroes = co_toy_pwrite_zeroes,
    .co_pdiscard = co_toy_pdiscard,
    .co_flush = co_toy_flush,
};
REGISTER(blk_driver, blk_toy);

/* ---- subjects ---- */

static void make(const struct subject *s)
{
    (void)s;
    memset(media[MEDIUM_FILE].data, 0, DATA);
}

const struct subject *toy_subject(enum toy_defect d)
{
    static struct subject toys[TOY_COUNT];
    static char text[TOY_COUNT][2][32];
    snprintf(text[d][0], sizeof(text[d][0]), "toy-%s", defect_names[d]);
    snprintf(text[d][1], sizeof(text[d][1]), "defect=%s", defect_names[d]);
    toys[d] = (struct subject){.name = text[d][0],
                               .driver = "toy",
                               .open = text[d][1],
                               .size = BLOCKS * BLOCK,
                               .cluster = BLOCK,
                               .traits = {.align = SECTOR},
                               .file_size = DATA + SLOTS * BLOCK,
                               .make = make};
    return &toys[d];
}
