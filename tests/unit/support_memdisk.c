/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/memdisk.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

unsigned memdisk_closes;
char memdisk_close_order[256];

static uint32_t random_state = 1;
void test_random_seed(uint32_t seed)
{
    random_state = seed * 2654435761u + 1;
}
uint32_t test_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state;
}

struct mem_options {
    uint64_t size, request_alignment, mem_align, max_sg, max_transfer;
    bool write_zeroes, fua, discards;
    uint64_t write_zeroes_alignment, max_write_zeroes, discard_alignment, max_discard, jitter,
        max_size;
    struct schema_ref backing;
};
#define NUMBER(m, name) FIELD_DEF(struct mem_options, m, name, &type_size, "0", "Test")
#define SWITCH(m, name) FIELD_DEF(struct mem_options, m, name, &type_bool, "off", "Test")
static const struct field mem_fields[] = {
    FIELD_DEF(struct mem_options, size, "size", &type_size, "1048576", "Test"),
    NUMBER(request_alignment, "request-alignment"),
    NUMBER(mem_align, "mem-align"),
    NUMBER(max_sg, "max-sg"),
    NUMBER(max_transfer, "max-transfer"),
    NUMBER(write_zeroes_alignment, "write-zeroes-alignment"),
    NUMBER(max_write_zeroes, "max-write-zeroes"),
    NUMBER(discard_alignment, "discard-alignment"),
    NUMBER(max_discard, "max-discard"),
    NUMBER(jitter, "jitter"),
    NUMBER(max_size, "max-size"),
    SWITCH(write_zeroes, "write-zeroes"),
    SWITCH(fua, "fua"),
    SWITCH(discards, "discards"),
    {.name = "backing",
     .type = &type_blockdev_ref,
     .offset = offsetof(struct mem_options, backing),
     .flags = FIELD_OPTIONAL,
     .doc = "Test"},
    {0},
};
static const struct type mem_type =
    TYPE_STRUCT_OF("BlockdevOptionsMem", struct mem_options, mem_fields);

struct memdisk *memdisk_of(struct node *n)
{
    return n->state;
}

static size_t sectors(uint64_t size)
{
    return (size_t)(align_up(size, MEM_SECTOR) / MEM_SECTOR);
}

static int co_mem_open(struct node *n, const void *opts, struct error *err)
{
    const struct mem_options *o = opts;
    struct memdisk *m = n->state;
    if (o->backing.present) {
        int r = co_child_open(n, "backing", &o->backing, false, &m->backing, err);
        if (r)
            return r;
    }
    n->limits = (struct blk_limits){
        .request_alignment = (uint32_t)o->request_alignment,
        .mem_align = (uint32_t)o->mem_align,
        .max_sg = (uint32_t)o->max_sg,
        .max_transfer = (uint32_t)o->max_transfer,
        .write_zeroes_alignment = (uint32_t)o->write_zeroes_alignment,
        .max_write_zeroes = o->max_write_zeroes,
        .discard_alignment = (uint32_t)o->discard_alignment,
        .max_discard = o->max_discard,
    };
    n->size = o->size;
    n->write_flags = o->fua ? BLK_FUA : 0;
    n->zero_flags = o->write_zeroes ? n->write_flags | BLK_MAY_UNMAP | BLK_NO_FALLBACK : 0;
    m->node = n;
    m->jitter = (unsigned)o->jitter;
    m->native_zeroes = o->write_zeroes;
    m->native_discard = o->discards;
    co_queue_init(&m->parked);
    if (fault(FAULT_ALLOC))
        return SR_ENOMEM;
    m->max_size = o->max_size;
    m->data = calloc(1, MAX(n->size, m->max_size) + 1);
    m->sector = calloc(1, sectors(MAX(n->size, m->max_size)) + 1);
    if (!m->backing)
        memset(m->sector, SECTOR_DATA, sectors(n->size));
    return 0;
}

static void co_mem_close(struct node *n)
{
    struct memdisk *m = n->state;
    size_t used = strlen(memdisk_close_order);
    ASSERT(!m->inflight);
    memdisk_closes++;
    if (used + NODE_NAME_MAX + 2 < sizeof(memdisk_close_order))
        sprintf(memdisk_close_order + used, "%s ", n->name);
    free(m->data);
    free(m->sector);
}

/* ---- what the dispatch layer promises ---- */

static void check_range(const struct node *n, uint64_t off, uint64_t len, uint64_t align)
{
    ASSERT(len);
    ASSERT(range_ok(off, len, align_up(n->size, n->limits.request_alignment)));
    ASSERT(off % align == 0 && len % align == 0);
}

static void check_iov(const struct node *n, uint64_t off, struct iov v)
{
    const struct blk_limits *l = &n->limits;
    struct memdisk *m = n->state;
    void *p;
    size_t len;
    unsigned count = 0;
    bool odd = false;
    check_range(n, off, v.len, l->request_alignment);
    ASSERT(v.len <= l->max_transfer && v.len <= BLK_MAX_PIECE);
    while (iov_next(&v, &p, &len)) {
        m->last_base = count ? m->last_base : p;
        ASSERT(!odd && len && (uintptr_t)p % l->mem_align == 0);
        odd = len % l->mem_align; /* only the last one's length may be */
        count++;
    }
    ASSERT(!l->max_sg || count <= l->max_sg);
    m->last_segs = count;
}

/* ---- acting ---- */

static void co_turns(const struct memdisk *m)
{
    for (unsigned i = m->jitter ? test_random() % (m->jitter + 1) : 0; i; i--)
        co_reschedule();
}

static void co_begin(struct memdisk *m, enum mem_op op, uint64_t off, uint64_t len)
{
    m->count[op]++;
    m->bytes[op] += len;
    m->last_off = off;
    m->last_len = len;
    m->largest = MAX(m->largest, len);
    m->inflight++;
    m->most_inflight = MAX(m->most_inflight, m->inflight);
    while (m->hold[op]) {
        m->nparked++;
        co_queue_wait(&m->parked);
        m->nparked--;
    }
    co_turns(m);
}

static int co_end(struct memdisk *m, enum fault_kind kind)
{
    co_turns(m);
    m->inflight--;
    m->changes += kind == FAULT_WRITE;
    return !m->refuse && fault(kind) ? SR_EIO : 0;
}

static bool refused(struct memdisk *m, enum fault_kind kind)
{
    if (!m->refuse || !fault(kind))
        return false;
    m->inflight--;
    return true;
}

/* A sector that is covered only in part holds data from now on. */
static void mark(struct memdisk *m, uint64_t off, uint64_t len, enum mem_sector s)
{
    uint64_t end = MIN(off + len, m->node->size);
    for (uint64_t at = align_down(off, MEM_SECTOR); at < end; at += MEM_SECTOR) {
        bool whole = at >= off && MIN(at + MEM_SECTOR, m->node->size) <= end;
        m->sector[at / MEM_SECTOR] = (uint8_t)(whole ? s : SECTOR_DATA);
    }
}

/* A backed disk copies what it does not have before it changes a part of a sector. */
static int co_fill(struct memdisk *m, uint64_t off, uint64_t len)
{
    for (uint64_t i = off / MEM_SECTOR; m->backing && i <= (off + len - 1) / MEM_SECTOR; i++) {
        uint64_t at = i * MEM_SECTOR, n = MEM_SECTOR;
        if (at >= m->node->size || m->sector[i] != SECTOR_UNALLOCATED)
            continue;
        n = MIN(n, m->node->size - at);
        if (at >= m->backing->node->size)
            continue;
        n = MIN(n, m->backing->node->size - at);
        int r = co_blk_pread(m->backing, at, m->data + at, n);
        if (r)
            return r;
    }
    return 0;
}

/* Half now, half later: a torn view for whoever looks in between. */
static void co_copy(struct memdisk *m, uint64_t off, struct iov v, bool write)
{
    size_t have = off >= m->node->size ? 0 : (size_t)MIN(v.len, m->node->size - off);
    size_t half = have / 2, part[2] = {half, have - half};
    for (size_t i = 0, at = 0; i < 2; at += part[i++]) {
        if (write)
            iov_copy_out(m->data + off + at, v, at, part[i]);
        else
            iov_copy_in(v, at, m->data + off + at, part[i]);
        co_turns(m);
    }
    if (!write)
        iov_fill(v, have, 0, v.len - have);
}

static int co_mem_preadv(struct node *n, uint64_t off, struct iov v, unsigned flags)
{
    struct memdisk *m = n->state;
    ASSERT(!flags);
    check_iov(n, off, v);
    co_begin(m, MEM_READ, off, v.len);
    if (refused(m, FAULT_READ))
        return SR_EIO;
    int r = co_fill(m, off, v.len);
    co_copy(m, off, v, false);
    int e = co_end(m, FAULT_READ);
    return r ? r : e;
}

static int co_mem_pwritev(struct node *n, uint64_t off, struct iov v, unsigned flags)
{
    struct memdisk *m = n->state;
    ASSERT(!(flags & ~n->write_flags));
    check_iov(n, off, v);
    m->flags_seen |= flags;
    co_begin(m, MEM_WRITE, off, v.len);
    if (refused(m, FAULT_WRITE))
        return SR_EIO;
    int r = co_fill(m, off, v.len);
    co_copy(m, off, v, true);
    mark(m, off, v.len, SECTOR_DATA);
    int e = co_end(m, FAULT_WRITE);
    return r ? r : e;
}

static int co_mem_pwrite_zeroes(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    struct memdisk *m = n->state;
    uint64_t align = MAX(n->limits.write_zeroes_alignment, n->limits.request_alignment);
    if (!m->native_zeroes)
        return SR_ENOTSUP;
    ASSERT(!(flags & ~n->zero_flags));
    check_range(n, off, len, align);
    ASSERT(!n->limits.max_write_zeroes || len <= n->limits.max_write_zeroes);
    m->flags_seen |= flags;
    co_begin(m, MEM_ZEROES, off, len);
    if (refused(m, FAULT_WRITE))
        return SR_EIO;
    int r = co_fill(m, off, len);
    if (off < n->size)
        memset(m->data + off, 0, MIN(len, n->size - off));
    mark(m, off, len, SECTOR_ZERO);
    int e = co_end(m, FAULT_WRITE);
    return r ? r : e;
}

static int co_mem_pdiscard(struct node *n, uint64_t off, uint64_t len)
{
    struct memdisk *m = n->state;
    if (!m->native_discard)
        return SR_ENOTSUP;
    check_range(n, off, len, MAX(n->limits.discard_alignment, n->limits.request_alignment));
    ASSERT(!n->limits.max_discard || len <= n->limits.max_discard);
    co_begin(m, MEM_DISCARD, off, len);
    if (refused(m, FAULT_WRITE))
        return SR_EIO;
    mark(m, off, len, SECTOR_DISCARDED);
    if (m->scribble && off < n->size)
        memset(m->data + off, 0xdb, MIN(len, n->size - off));
    return co_end(m, FAULT_WRITE);
}

static int co_mem_flush(struct node *n)
{
    struct memdisk *m = n->state;
    uint64_t covers = m->changes;
    co_begin(m, MEM_FLUSH, 0, 0);
    int r = refused(m, FAULT_FLUSH) ? SR_EIO : co_end(m, FAULT_FLUSH);
    m->flushed = r ? m->flushed : covers;
    return r;
}

/* What was in the rest of the last sector belongs to nobody; with a backing that could show. */
static int co_mem_truncate(struct node *n, uint64_t size)
{
    struct memdisk *m = n->state;
    if (!m->max_size || m->backing)
        return SR_ENOTSUP;
    co_begin(m, MEM_TRUNCATE, size, 0);
    if (refused(m, FAULT_WRITE))
        return SR_EIO;
    int r = co_end(m, FAULT_WRITE);
    if (!r && size > m->max_size)
        r = SR_ENOSPC;
    if (!r && size > n->size) {
        memset(m->data + n->size, 0, size - n->size);
        memset(m->sector + sectors(n->size), SECTOR_ZERO, sectors(size) - sectors(n->size));
    }
    return r;
}

static int co_mem_status(struct node *n, uint64_t off, uint64_t len, struct blk_status *st)
{
    static const unsigned flags[] = {[SECTOR_UNALLOCATED] = 0,
                                     [SECTOR_DATA] = BLK_DATA | BLK_OFFSET_VALID,
                                     [SECTOR_ZERO] = BLK_ZERO,
                                     [SECTOR_DISCARDED] = BLK_DATA};
    struct memdisk *m = n->state;
    uint64_t i = off / MEM_SECTOR, first = i;
    while (i < sectors(n->size) && m->sector[i] == m->sector[first])
        i++;
    st->flags = flags[m->sector[first]];
    st->map = off;
    /* longer than asked where the run is; the rest of the last block when the size is odd */
    st->len = i == sectors(n->size) ? MAX(i * MEM_SECTOR - off, len) : i * MEM_SECTOR - off;
    return fault(FAULT_READ) ? SR_EIO : 0;
}

static const struct blk_driver blk_mem = {
    .name = "mem",
    .options = &mem_type,
    .state_size = sizeof(struct memdisk),
    .protocol = true,
    .co_open = co_mem_open,
    .co_close = co_mem_close,
    .co_preadv = co_mem_preadv,
    .co_pwritev = co_mem_pwritev,
    .co_pwrite_zeroes = co_mem_pwrite_zeroes,
    .co_pdiscard = co_mem_pdiscard,
    .co_truncate = co_mem_truncate,
    .co_flush = co_mem_flush,
    .co_block_status = co_mem_status,
};
REGISTER(blk_driver, blk_mem);

/* ---- steering ---- */

void memdisk_hold(struct memdisk *m, enum mem_op op)
{
    m->hold[op] = true;
}

void memdisk_release(struct memdisk *m)
{
    memset(m->hold, 0, sizeof(m->hold));
    co_queue_wake_all(&m->parked);
}

void memdisk_forget(struct memdisk *m)
{
    memset(m->count, 0, sizeof(m->count));
    memset(m->bytes, 0, sizeof(m->bytes));
    m->largest = m->most_inflight = m->flags_seen = 0;
}

static int open_text(const char *text, struct node **n, struct error *err)
{
    struct value *def = schema_parse_keyval(text, "driver", err);
    int r = def ? co_node_open(def, true, true, n, err) : SR_EINVAL;
    value_free(def);
    return r;
}

struct node *test_open(const char *text)
{
    struct error err = {0};
    struct node *n = NULL;
    if (open_text(text, &n, &err))
        fail_msg("%s: %s", text, err.msg);
    return n;
}

const char *test_open_error(const char *text)
{
    static struct error err;
    struct node *n = NULL;
    err = (struct error){0};
    if (!open_text(text, &n, &err))
        fail_msg("%s: opened", text);
    assert_true(err.set);
    return err.msg;
}

struct test_root test_root_open(struct node *n)
{
    struct test_root t = {.origin = blk_calloc(sizeof(struct origin)), .n = n};
    assert_non_null(t.origin);
    assert_int_equal(origin_open(t.origin, n, !n->read_only, NULL), 0);
    t.c = t.origin->root;
    return t;
}

void test_root_close(struct test_root *t)
{
    co_origin_close(t->origin);
    blk_free(t->origin);
    t->n->monitor_owned = false;
    co_node_unref(t->n);
}
