/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Fields of the header that change while an image is written. Each change is one write inside of the
 * first sector, so a power cut leaves the old header or the new one. Extensions, names and everything
 * unknown stay as they are.
 *
 * Corruption. What the tables say and cannot be true stops all writing at once: of data, because it
 * may go where it does not belong, and of metadata, because it builds on what is wrong. The corrupt bit
 * (version 3) is written before anything else is, so that nobody writes the image before it was
 * repaired; an event tells who listens. Reading goes on.
 */
#include "formats/qcow2/writer.h"

#include <stdarg.h>
#include <stdio.h>

#define FIELD_AT(f) offsetof(struct qcow2_header, f)

static int co_write_u64(struct qcow2 *s, size_t at, uint64_t v)
{
    be64 field;
    be64_set(&field, v);
    return co_blk_pwrite(s->node->file, at, &field, sizeof(field), 0);
}

int co_header_switch_refcounts(struct qcow2 *s, uint64_t table, uint64_t clusters)
{
    struct {
        be64 offset;
        be32 clusters;
    } field;
    static_assert(FIELD_AT(refcount_table_clusters) - FIELD_AT(refcount_table_offset) ==
                      offsetof(__typeof__(field), clusters),
                  "side by side");
    int r = s->corrupt ? SR_EIO : 0;
    be64_set(&field.offset, table);
    be32_set(&field.clusters, (uint32_t)clusters);
    if (!r)
        r = co_blk_pwrite(s->node->file, FIELD_AT(refcount_table_offset), &field, sizeof(field), 0);
    return r ? r : co_blk_flush(s->node->file);
}

/* Two may want to change a bit each: whoever writes last writes both. */
static int co_write_features(struct qcow2 *s)
{
    struct writer *w = s->w;
    co_mutex_lock(&w->features);
    uint64_t bits = s->incompatible & ~(uint64_t)(QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT);
    bits |= w->dirty_bit ? QCOW2_INCOMPAT_DIRTY : 0;
    bits |= s->corrupt ? QCOW2_INCOMPAT_CORRUPT : 0;
    int r = co_write_u64(s, FIELD_AT(incompatible_features), bits);
    if (!r)
        s->incompatible = bits;
    co_mutex_unlock(&w->features);
    return r;
}

/* Set: stable with the next flush. Cleared: the caller has flushed what it promises. */
int co_set_dirty(struct qcow2 *s, bool dirty)
{
    s->w->dirty_bit = dirty;
    int r = co_write_features(s);
    if (r)
        s->w->dirty_bit = !dirty;
    return r;
}

/* ---- before the first change ---- */

/* A file may end within its last cluster; what is written there later must have room. */
static int co_whole_clusters(struct qcow2 *s)
{
    struct child *file = s->node->file;
    if (is_aligned(file->node->size, s->cluster_mask + 1))
        return 0;
    int r = co_blk_truncate(file, file_round(s, file->node->size));
    if (r == SR_ENOTSUP)
        s->w->fixed = true;
    return r == SR_ENOTSUP || r == SR_ENOSPC ? 0 : r;
}

/* Bits whose meaning is not known say something that would not be true any more; so does the one of
 * the bitmaps, which nobody here updates. */
static int co_clear_autoclear(struct qcow2 *s)
{
    uint64_t keep = s->w->autoclear & QCOW2_AUTOCLEAR_DATA_FILE_RAW;
    if (keep == s->w->autoclear)
        return 0;
    if (s->w->autoclear & QCOW2_AUTOCLEAR_BITMAPS)
        log_line("qcow2",
                 "warning: node %s: the bitmaps in the image are not valid any more, for it "
                 "is written now",
                 s->node->name);
    int r = co_write_u64(s, FIELD_AT(autoclear_features), keep);
    if (!r)
        r = co_blk_flush(s->node->file);
    if (!r)
        s->w->autoclear = keep;
    return r;
}

int co_prepare(struct qcow2 *s)
{
    struct writer *w = s->w;
    if (s->corrupt)
        return SR_EIO;
    if (likely(w->prepared))
        return 0;
    co_mutex_lock(&w->alloc);
    int r = w->prepared ? 0 : co_whole_clusters(s);
    if (!r)
        r = co_clear_autoclear(s);
    if (!r && !s->corrupt && !w->prepared) {
        w->prepared = true;
        __atomic_store_n(&s->not_in_place, s->not_plain, __ATOMIC_RELAXED);
    }
    co_mutex_unlock(&w->alloc);
    return r;
}

/* ---- corruption ---- */

struct corrupted {
    const char *device, *node_name, *msg;
    bool has_offset, fatal;
    int64_t offset;
};
static const struct field corrupted_fields[] = {
    FIELD_REQ(struct corrupted, device, "device", &type_str, "Empty"),
    FIELD_REQ(struct corrupted, node_name, "node-name", &type_str, "Node with the image"),
    FIELD_REQ(struct corrupted, msg, "msg", &type_str, "What is wrong"),
    FIELD_OPT(struct corrupted, offset, "offset", &type_int, "Where, in the image file"),
    FIELD_REQ(struct corrupted, fatal, "fatal", &type_bool, "No more writing"),
    {0},
};
static const struct type corrupted_type =
    TYPE_STRUCT_OF("BLOCK_IMAGE_CORRUPTED", struct corrupted, corrupted_fields);
static const struct event_def event_corrupted = {
    .name = "BLOCK_IMAGE_CORRUPTED",
    .data = &corrupted_type,
    .doc = "An image was found to be damaged; it is not written any more",
};
REGISTER(event, event_corrupted);

static void co_mark(void *arg)
{
    struct qcow2 *s = arg;
    int r = co_write_features(s);
    if (!r)
        r = co_blk_flush(s->node->file);
    if (r)
        log_line("qcow2", "node %s: the corrupt bit cannot be written: %s", s->node->name,
                 sr_strerror(r));
    s->w->marking = false;
    co_queue_wake_all(&s->w->mark_wait);
}

static void tell(struct qcow2 *s, uint64_t off, const char *msg)
{
    struct corrupted c = {.device = "",
                          .node_name = s->node->name,
                          .msg = msg,
                          .has_offset = true,
                          .offset = (int64_t)off,
                          .fatal = s->w != NULL};
    log_line("qcow2", "node %s: image is corrupt: %s (0x%llx); no more writing", s->node->name, msg,
             (unsigned long long)off);
    event_emit(&event_corrupted, &c);
}

int qcow2_corruption(struct qcow2 *s, uint64_t off, const char *fmt, ...)
{
    struct writer *w = s->w;
    char msg[120];
    va_list ap;
    if (s->corrupt)
        return SR_EIO;
    s->corrupt = true;
    __atomic_store_n(&s->not_in_place, ~0ull, __ATOMIC_RELAXED);
    va_start(ap, fmt);
    vsnprintf(msg, sizeof(msg), fmt, ap);
    va_end(ap);
    tell(s, off, msg);
    if (s->version < 3)
        return SR_EIO;
    w->marking = true;
    co_start_child(&w->mark_start, co_mark,
                   s); /* writers that wait must not keep it from being done */
    return SR_EIO;
}
