/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The subjects, and how the image of one is made. See subject.h.
 *
 * The first half of the volume is written before the runs begin, so that operations meet data,
 * zeroes, compressed clusters and (with a backing file) what shines through; the second half is
 * fresh.
 */
#include "tests/sim/subject.h"
#include "tests/sim/qemu.h"
#include "tests/sim/stamp.h"

#include <stdio.h>
#include <stdlib.h>

static const char *failure(const char *what, const char *why)
{
    static char text[600];
    snprintf(text, sizeof(text), "%s: %s", what, why);
    return text;
}

/* ---- media ---- */

#define GROWABLE_CAPACITY MAX(512u << 10, 8 * s->size)

static void reset(const struct subject *s, enum medium_id id, bool there, uint64_t size)
{
    struct traits t = s->traits;
    t.growable = t.growable && id != MEDIUM_BACKING && there;
    if (!there)
        size = 0;
    uint64_t most = s->file_size ? s->file_size : s->full + GROWABLE_CAPACITY;
    medium_reset(&media[id], t.growable ? 0 : size, t.growable ? most : size, t);
}

static void reset_media(const struct subject *s)
{
    uint64_t enough = s->full + align_up(3 * s->size, 65536);
    reset(s, MEDIUM_FILE, true, s->file_size ? s->file_size : enough);
    reset(s, MEDIUM_DATA, s->data_file, s->size);
    uint64_t below = s->backing_size ? s->backing_size : align_down(s->size * 3 / 4, SECTOR);
    reset(s, MEDIUM_BACKING, s->backing, below);
}

static void fill_media(void)
{
    for (unsigned m = 0; m < MEDIA; m++)
        stamp_fill(media[m].data, m == MEDIUM_BACKING ? SEQ_BACKING : SEQ_JUNK, 0, media[m].size);
}

void bench_put(const struct bench *b)
{
    reset_media(b->s);
    snapshot_put(&b->before);
}

/* ---- making an image ---- */

const struct blk_driver *subject_driver(const struct subject *s)
{
    registry_for_each (blk_driver, d)
        if (!strcmp((*d)->name, s->driver))
            return *d;
    return NULL;
}

int co_file_open(struct volume *v, struct error *err)
{
    return co_volume_open(v, "driver=sim,node-name=alone,disk=file", false, err);
}

static int co_create_decoded(const struct subject *s, const void *opts, struct error *err)
{
    struct volume v;
    int r = co_file_open(&v, err);
    if (r)
        return r;
    r = subject_driver(s)->co_create(v.root, opts, err);
    co_volume_close(&v);
    return r;
}

int co_subject_create(const struct subject *s, struct error *err)
{
    const struct type *t = subject_driver(s)->create_options;
    char text[600];
    struct arena arena;
    snprintf(text, sizeof(text), "size=%llu,%s%s", (unsigned long long)s->size, s->create,
             s->data_file ? ",data-file.driver=sim,data-file.disk=data" : "");
    if (s->backing)
        strcat(text, ",backing-file=below,backing-fmt=raw");
    arena_init(&arena);
    struct value *v = schema_parse_keyval(text, NULL, err);
    void *opts = arena_alloc(&arena, t->size);
    int r = v && opts ? schema_decode(t, v, SCHEMA_TEXT, opts, &arena, err) : SR_EINVAL;
    if (!r)
        r = co_create_decoded(s, opts, err);
    value_free(v);
    arena_free(&arena);
    return r;
}

static const char *open_text(const struct subject *s, struct heap *h)
{
    return heap_printf(
        h, "driver=%s,node-name=vol,discard=unmap,file.driver=sim,file.disk=file%s%s%s%s",
        s->driver, s->data_file ? ",data-file.driver=sim,data-file.disk=data" : "",
        s->backing ? ",backing.driver=raw,backing.file.driver=sim,backing.file.disk=backing" : "",
        s->open ? "," : "", s->open ? s->open : "");
}

/* ---- what is there before the runs ---- */

/* Unit by unit. What the driver cannot do is left out. */
static const struct op setup_ops[] = {
    {.kind = OP_WRITE}, {.kind = OP_WRITE}, {.kind = OP_ZERO},       {.kind = OP_COMPRESSED},
    {.kind = OP_READ},  {.kind = OP_WRITE}, {.kind = OP_COMPRESSED}, {.kind = OP_COMPRESSED},
};

static int co_setup(const struct subject *s, struct volume *v, struct record *rec)
{
    int r = 0;
    for (unsigned i = 0; (i + 1) * s->cluster <= s->size / 2 && !r; i++) {
        struct op o = setup_ops[i % ARRAY_LEN(setup_ops)];
        o.seq = i + 1;
        o.off = (uint64_t)i * s->cluster;
        o.len = i % 8 == 5 ? s->cluster / 2 : s->cluster;
        r = co_volume_op(v, rec, o);
        if (o.kind == OP_COMPRESSED && r)
            r = 0;
    }
    return r;
}

static const char *co_fill_volume(const struct bench *b)
{
    const struct subject *s = b->s;
    static struct record rec;
    struct volume v;
    struct error err = {0};
    record_reset(&rec);
    int r = co_volume_open(&v, b->open, false, &err);
    if (r)
        return failure("the image does not open", err.msg);
    r = s->fresh ? 0 : co_setup(s, &v, &rec);
    co_volume_close(&v);
    return r ? failure("the image cannot be written to", sr_strerror(r)) : NULL;
}

static const char *co_read_volume(struct bench *b)
{
    struct volume v;
    struct error err = {0};
    uint8_t *content = heap_zalloc(&b->heap, align_up(b->s->size, SECTOR));
    int r = co_volume_open(&v, b->open, false, &err);
    if (r)
        return failure("the image does not open", err.msg);
    r = co_volume_read_all(&v, content, 65536);
    co_volume_close(&v);
    b->content = content;
    return r ? failure("the image cannot be read", sr_strerror(r)) : NULL;
}

/* Every cluster below s->full that is free gets a refcount of 1 that nobody asked for, so that the
 * next ones need a new refcount block, or a larger refcount table. For refcounts of 64 bits. */
static void take_clusters(const struct subject *s)
{
    struct medium *m = &media[MEDIUM_FILE];
    uint64_t per_block = s->cluster / 8, table = get_be(m->data + 48, 8);
    memset(m->data + m->size, 0, m->capacity - m->size);
    for (uint64_t c = 0; c < s->full / s->cluster; c++) {
        uint8_t *entry = m->data + table + c / per_block * 8;
        if (!get_be(entry, 8)) /* the first cluster that the new block counts is itself */
            put_be(entry, 8, c * s->cluster);
        uint8_t *count = m->data + get_be(entry, 8) + c % per_block * 8;
        if (!get_be(count, 8))
            put_be(count, 8, 1);
    }
    m->size = s->full;
}

static const char *co_make(struct bench *b)
{
    const struct subject *s = b->s;
    struct error err = {0};
    fill_media();
    if (s->create && co_subject_create(s, &err))
        return failure("the image cannot be made", err.msg);
    if (s->make)
        s->make(s);
    const char *bad = co_fill_volume(b);
    if (!bad && s->snapshot)
        bad = qemu_change("snapshot -c s", &b->heap);
    if (s->full)
        take_clusters(s);
    return bad ? bad : co_read_volume(b);
}

const char *co_bench_make(struct bench *b, const struct subject *s)
{
    struct findings f = {0};
    *b = (struct bench){.s = s};
    b->open = open_text(s, &b->heap);
    sim_reseed(1, false);
    reset_media(s);
    const char *bad = co_make(b);
    if (!bad && s->check)
        s->check(&f);
    if (f.corruptions)
        bad = failure("the image is corrupt", f.text);
    b->leaks = f.leaks;
    snapshot_take(&b->before, &b->heap);
    sim_leaks(true);
    return bad;
}

void bench_free(struct bench *b)
{
    heap_free(&b->heap);
}

/* ---- the list ---- */

/* A disk of fixed size with sectors, as the firmware has it; a file on a host; a disk with a cache
 * that knows FUA. */
#define DISK      .traits = {.align = 512}
#define HOST_FILE .traits = {.align = 1, .growable = true, .zeroes = true, .discards = true}
#define CLEAR_FILE \
    .traits = {.align = 1, .growable = true, .zeroes = true, .discards = true, .clears = true}
#define FULL_DISK .traits = {.align = 512, .zeroes = true, .discards = true, .fua = true}
#define QCOW2_OF(nm, sz, cl, options, ...)                                           \
    {                                                                                \
        .name = (nm), .driver = "qcow2", .cluster = (cl), .size = (sz),              \
        .create = "cluster-size=" #cl "," options, .check = qcow2_check, __VA_ARGS__ \
    }
#define QCOW2(nm, cl, options, ...) QCOW2_OF(nm, MAX(8 * (cl), 64u << 10), cl, options, __VA_ARGS__)

const struct subject subjects[] = {
    {.name = "raw",
     .driver = "raw",
     .size = 32u << 10,
     .cluster = 1024,
     .file_size = 32u << 10,
     DISK},
    QCOW2("v3", 512, "version=v3", DISK),
    QCOW2("v3-file", 512, "version=v3", HOST_FILE, .roomy = true),
    QCOW2("v3-4k", 4096, "version=v3", FULL_DISK),
    QCOW2("v3-fresh", 512, "version=v3", DISK, .fresh = true),
    QCOW2("v3-backing", 1024, "version=v3", DISK, .backing = true),
    QCOW2_OF("odd", (64u << 10) - 1536, 4096, "version=v3", HOST_FILE, .backing = true,
             .backing_size = 40000),
    QCOW2_OF("tiny-cache", 128u << 10, 512, "version=v3", DISK, .open = "l2-cache-size=512"),
    QCOW2("v2", 512, "version=v2", DISK, .roomy = true),
    QCOW2("v2-backing", 1024, "version=v2", HOST_FILE, .backing = true),
    QCOW2("lazy", 512, "lazy-refcounts=on", DISK),
    QCOW2("lazy-backing", 1024, "lazy-refcounts=on", HOST_FILE, .backing = true),
    QCOW2("sub", 16384, "extended-l2=on", HOST_FILE, .roomy = true),
    QCOW2("sub-backing", 16384, "extended-l2=on", FULL_DISK, .backing = true),
    QCOW2("data", 512, "version=v3", DISK, .data_file = true),
    QCOW2("data-raw", 4096, "data-file-raw=on", CLEAR_FILE, .data_file = true),
    QCOW2("prealloc", 512, "preallocation=metadata", DISK),
    QCOW2("snapshot", 512, "version=v3", DISK, .snapshot = true),
    QCOW2("wide", 512, "refcount-bits=64", HOST_FILE),
    QCOW2("table", 512, "refcount-bits=64", HOST_FILE, .full = (2u << 20) - (2u << 10)),
    QCOW2("t-safe", 512, "refcount-bits=64", HOST_FILE, .full = (2u << 20) - (2u << 10),
          .restart_safe = true),
    QCOW2("narrow", 1024, "refcount-bits=1", FULL_DISK),
    QCOW2("zstd", 4096, "compression-type=zstd", DISK, .roomy = true),
    QCOW2("full", 512, "version=v3", DISK, .file_size = 56u << 10),
    QCOW2("full-file", 1024, "version=v3", HOST_FILE, .file_size = 56u << 10),
    QCOW2("safe", 512, "version=v3", DISK, .restart_safe = true),
    QCOW2("safe-lazy", 512, "lazy-refcounts=on", HOST_FILE, .restart_safe = true),
    QCOW2("safe-data", 1024, "version=v3", FULL_DISK, .restart_safe = true, .data_file = true),
    QCOW2("safe-sub", 16384, "extended-l2=on", DISK, .restart_safe = true, .backing = true),
};
const unsigned nsubjects = ARRAY_LEN(subjects);

const struct subject *subject_find(const char *name, size_t len)
{
    for (unsigned i = 0; i < nsubjects; i++)
        if (strlen(subjects[i].name) == len && !memcmp(subjects[i].name, name, len))
            return &subjects[i];
    return NULL;
}
