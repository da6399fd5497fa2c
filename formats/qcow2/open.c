/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow2: opening and closing.
 *
 *     file     one read of at most 64 KiB: header, extensions, names        header.c
 *     file     the snapshot table, looked through                           snapshot.c
 *     file     the L1 table, those entries that the disk's size needs       stays in memory
 *     data     external data file: option `data-file`, else the header's name
 *     backing  option `backing` (null: none), else the header's name and format
 *
 * Names in a header are what somebody else wrote: blk/volume.c decides what they may reach, and a
 * backing name without a format is refused, because formats are never guessed.
 *
 * Nothing is changed by opening, but for one thing: an image whose refcounts were not written (dirty
 * bit) is repaired when it may be written. One that was found corrupt may only be read.
 *
 * Memory from the page allocator, at open only: L1 table (at most 32 MiB), L2 cache; for writing the
 * refcount table (at most 8 MiB), refcount cache, a buffer for copies.
 */
#include "formats/qcow2/writer.h"

#include <string.h>

struct qcow2_options {
    struct schema_ref file, backing, data_file;
    bool has_l2_cache_size, has_l2_cache_entry_size;
    uint64_t l2_cache_size, l2_cache_entry_size;
};
#define OPTIONAL_REF(m, nm, ty, dc)                                              \
    {                                                                            \
        .name = (nm), .type = (ty), .offset = offsetof(struct qcow2_options, m), \
        .flags = FIELD_OPTIONAL, .doc = (dc)                                     \
    }
static const struct field qcow2_fields[] = {
    FIELD_REQ(struct qcow2_options, file, "file", &type_blockdev_ref, "Node with the image"),
    OPTIONAL_REF(backing, "backing", &type_blockdev_ref_or_null,
                 "Node below, null for none (default: what the image says)"),
    OPTIONAL_REF(data_file, "data-file", &type_blockdev_ref,
                 "Node with the external data (default: what the image says)"),
    FIELD_OPT(struct qcow2_options, l2_cache_size, "l2-cache-size", &type_size,
              "Bytes of the L2 table cache (default: by RAM, 32 MiB at most)"),
    FIELD_OPT(struct qcow2_options, l2_cache_entry_size, "l2-cache-entry-size", &type_size,
              "Bytes of one entry of the L2 table cache (default: 4 KiB, or the cluster size)"),
    {0},
};
static const struct type qcow2_type =
    TYPE_STRUCT_OF("BlockdevOptionsQcow2", struct qcow2_options, qcow2_fields);

#define DEFAULT_SLICE 4096u

/* ---- geometry ---- */

static void set_geometry(struct qcow2 *s, const struct qcow2_image *img)
{
    unsigned entry_shift = img->incompatible & QCOW2_INCOMPAT_EXTL2 ? 4 : 3;
    s->version = img->version;
    s->cluster_bits = img->cluster_bits;
    s->cluster_mask = (1ull << img->cluster_bits) - 1;
    s->csize_shift = 62 - (img->cluster_bits - 8);
    s->l2_shift = 2 * img->cluster_bits - entry_shift;
    s->extended = entry_shift == 4;
    s->external = img->incompatible & QCOW2_INCOMPAT_DATA_FILE;
    s->raw = img->autoclear & QCOW2_AUTOCLEAR_DATA_FILE_RAW;
    s->compression = img->compression;
    s->refcount_bits = 1u << img->refcount_order;
    s->incompatible = img->incompatible;
    s->compatible = img->compatible;
    s->not_plain = ~(QCOW2_COPIED | (QCOW2_OFFSET_MASK & ~s->cluster_mask));
    if (s->extended || s->external)
        s->not_plain = ~0ull;
}

static int open_cache(struct qcow2 *s, const struct qcow2_options *o, struct error *err)
{
    uint64_t cluster = s->cluster_mask + 1;
    uint64_t slice = o->has_l2_cache_entry_size ? o->l2_cache_entry_size : 0;
    if (o->has_l2_cache_entry_size && (!is_pow2(slice) || slice < 512 || slice > cluster))
        return error_set(err, SR_EINVAL,
                         "L2 cache entry size must be a power of two between 512 and the cluster "
                         "size (%llu)",
                         (unsigned long long)cluster);
    if (!slice)
        slice = MIN(cluster, DEFAULT_SLICE);
    s->index_mask = (slice >> (s->extended ? 4 : 3)) - 1;
    s->slice_shift = s->l2_shift - (s->cluster_bits - log2_floor(slice));
    uint64_t most = s->l1_entries << (s->l2_shift - s->slice_shift);
    uint64_t bytes = o->has_l2_cache_size ? MAX(o->l2_cache_size, 1u) : 0;
    if (l2_open(&s->l2, slice, bytes, most))
        return error_set(err, SR_ENOMEM, "Could not allocate the L2 table cache");
    return 0;
}

/* ---- metadata ---- */

static int co_read_header(struct node *n, struct qcow2_image *img, struct error *err)
{
    size_t len = (size_t)MIN(n->file->node->size, QCOW2_HEAD_MAX);
    uint8_t *head = fault(FAULT_ALLOC) ? NULL : page_alloc(MAX(len, 1u));
    if (!head)
        return error_set(err, SR_ENOMEM, "Could not read qcow2 header: %s", sr_strerror(SR_ENOMEM));
    int r = len ? co_blk_pread(n->file, 0, head, len) : 0;
    if (r)
        error_set(err, r, "Could not read qcow2 header: %s", sr_strerror(r));
    else
        r = qcow2_parse_header(img, head, len, n->file->node->size, err);
    page_free(head, MAX(len, 1u));
    return r;
}

static int co_read_l1(struct qcow2 *s, const struct qcow2_image *img, struct error *err)
{
    s->l1_entries = (img->size >> s->l2_shift) + !is_aligned(img->size, 1ull << s->l2_shift);
    size_t bytes = (size_t)s->l1_entries * 8;
    if (!bytes)
        return 0;
    s->l1 = fault(FAULT_ALLOC) ? NULL : page_alloc(bytes);
    if (!s->l1)
        return error_set(err, SR_ENOMEM, "Could not allocate L1 table (%zu KiB)", bytes >> 10);
    int r = co_blk_pread(s->node->file, img->l1_offset, s->l1, bytes);
    if (r)
        return error_set(err, r, "Could not read L1 table: %s", sr_strerror(r));
    return 0;
}

/* ---- children ---- */

static int co_open_data(struct node *n, const struct qcow2_options *o,
                        const struct qcow2_image *img, struct error *err)
{
    struct qcow2 *s = n->state;
    s->data = n->file;
    if (!s->external && o->data_file.present)
        return error_set(err, SR_EINVAL,
                         "'data-file' can only be set for images with an external data file");
    if (!s->external)
        return 0;
    if (img->has_data_file && !(s->data_file = sr_strdup(img->data_file)))
        return SR_ENOMEM;
    if (o->data_file.present)
        return co_child_open(n, "data-file", &o->data_file, false, &s->data, err);
    if (!img->has_data_file)
        return error_set(err, SR_EINVAL, "'data-file' is required for this image");
    return co_child_open_volume(n, "data-file", img->data_file, NULL, false, &s->data, err);
}

static int co_open_backing(struct node *n, const struct qcow2_options *o,
                           const struct qcow2_image *img, struct error *err)
{
    struct child *c;
    if (o->backing.present && o->backing.is_null)
        return 0;
    if (o->backing.present)
        return co_child_open(n, "backing", &o->backing, false, &c, err);
    if (!img->has_backing)
        return 0;
    if (!img->has_format || !img->format[0])
        return error_set(err, SR_EINVAL,
                         "The image names backing file '%s' without its format; formats are never "
                         "guessed: give 'backing' explicitly",
                         img->backing);
    return co_child_open_volume(n, "backing", img->backing, img->format, false, &c, err);
}

/* ---- open, close ---- */

static void close_all(struct qcow2 *s)
{
    writer_free(s);
    squeeze_close(s);
    clusters_close(s);
    l2_close(&s->l2);
    if (s->l1)
        page_free(s->l1, (size_t)s->l1_entries * 8);
    sr_free(s->data_file);
}

/* A file that cannot be written is no error before somebody wants to. */
static int co_decide_writing(struct node *n, struct qcow2_image *img, struct error *err)
{
    n->read_only |= n->file->node->read_only;
    if (!n->read_only && (img->incompatible & QCOW2_INCOMPAT_CORRUPT)) {
        if (!n->auto_read_only)
            return error_set(err, SR_EACCES,
                             "qcow2: Image is corrupt; cannot be opened read/write");
        n->read_only = true;
    }
    if (n->read_only)
        return 0;
    int r = child_allow_writes(n->file, err);
    if (r || !(img->incompatible & QCOW2_INCOMPAT_DIRTY))
        return r;
    r = co_qcow2_repair_open(n->file, err);
    return r ? r : co_read_header(n, img, err);
}

static int co_open_for_writing(struct node *n, struct qcow2_image *img, struct error *err)
{
    struct qcow2 *s = n->state;
    if (s->external && s->data->node->read_only)
        n->read_only = true;
    n->file->writable &= !n->read_only;
    s->not_in_place = ~0ull;
    if (n->read_only)
        return 0;
    int r = s->external ? child_allow_writes(s->data, err) : 0;
    if (r)
        return r;
    n->write_flags = BLK_FUA | BLK_SETTLED | BLK_COMPRESSED | BLK_WRITE_UNCHANGED;
    n->zero_flags = BLK_FUA | BLK_SETTLED | BLK_MAY_UNMAP | BLK_NO_FALLBACK;
    return co_writer_open(s, img, err);
}

static int co_open_image(struct node *n, const struct qcow2_options *o, struct qcow2_image *img,
                         struct error *err)
{
    struct qcow2 *s = n->state;
    int r = co_read_header(n, img, err);
    if (!r)
        r = co_decide_writing(n, img, err);
    if (r)
        return r;
    set_geometry(s, img);
    r = co_qcow2_check_snapshots(n->file, img, err);
    if (!r)
        r = co_read_l1(s, img, err);
    if (!r)
        r = open_cache(s, o, err);
    if (!r)
        r = clusters_open(s);
    if (!r)
        r = co_open_data(n, o, img, err);
    if (!r)
        r = co_open_backing(n, o, img, err);
    if (!r)
        r = co_open_for_writing(n, img, err);
    return r;
}

/* Any bytes: what the file wants, its dispatch sees to. */
static void set_limits(struct node *n)
{
    const struct qcow2 *s = n->state;
    uint32_t cluster = (uint32_t)s->cluster_mask + 1;
    n->limits = (struct blk_limits){0};
    n->limits.discard_alignment = cluster;
    n->limits.write_zeroes_alignment = s->extended ? cluster >> QCOW2_SUBCLUSTER_BITS : cluster;
}

static int co_qcow2_open(struct node *n, const void *opts, struct error *err)
{
    const struct qcow2_options *o = opts;
    struct qcow2 *s = n->state;
    s->node = n;
    int r = co_child_open(n, "file", &o->file, false, &n->file, err);
    if (r)
        return r;
    struct qcow2_image *img = sr_calloc(1, sizeof(*img));
    if (!img)
        return SR_ENOMEM;
    r = co_open_image(n, o, img, err);
    n->size = img->size;
    sr_free(img->snapshot_l1);
    sr_free(img);
    if (r)
        close_all(s);
    else
        set_limits(n);
    return r;
}

static void co_qcow2_close(struct node *n)
{
    struct qcow2 *s = n->state;
    if (s->w)
        co_writer_close(s);
    close_all(s);
}

/* ---- queries ---- */

struct qcow2_info {
    const char *compat, *data_file;
    bool has_extended_l2, extended_l2, has_lazy_refcounts, lazy_refcounts, has_corrupt, corrupt;
    bool has_data_file_raw, data_file_raw;
    int64_t refcount_bits;
    int compression_type;
};
static const char *const compression_names[] = {
    [COMPRESSION_ZLIB] = "zlib", [COMPRESSION_ZSTD] = "zstd", NULL};
static const struct type compression_type = TYPE_ENUM_OF("Qcow2CompressionType", compression_names);
static const struct field info_fields[] = {
    FIELD_REQ(struct qcow2_info, compat, "compat", &type_str, "Compatibility level: 0.10 or 1.1"),
    FIELD_OPTS(struct qcow2_info, data_file, "data-file", &type_str,
               "Name of the external data file in the image"),
    FIELD_OPT(struct qcow2_info, data_file_raw, "data-file-raw", &type_bool,
              "The data file is a valid raw image"),
    FIELD_OPT(struct qcow2_info, extended_l2, "extended-l2", &type_bool,
              "L2 entries have subclusters"),
    FIELD_OPT(struct qcow2_info, lazy_refcounts, "lazy-refcounts", &type_bool,
              "Lazy refcount updates are allowed"),
    FIELD_OPT(struct qcow2_info, corrupt, "corrupt", &type_bool, "Marked as corrupt"),
    FIELD_REQ(struct qcow2_info, refcount_bits, "refcount-bits", &type_int,
              "Width of a refcount entry in bits"),
    FIELD_REQ(struct qcow2_info, compression_type, "compression-type", &compression_type,
              "Compression of compressed clusters"),
    {0},
};
static const struct type info_type =
    TYPE_STRUCT_OF("ImageInfoSpecificQCow2", struct qcow2_info, info_fields);

static void qcow2_get_info(struct node *n, void *out, struct arena *a)
{
    const struct qcow2 *s = n->state;
    struct qcow2_info *i = out;
    bool v3 = s->version == 3;
    *i = (struct qcow2_info){.compat = v3 ? "1.1" : "0.10",
                             .refcount_bits = s->refcount_bits,
                             .compression_type = (int)s->compression};
    i->has_extended_l2 = i->has_lazy_refcounts = i->has_corrupt = v3;
    i->extended_l2 = s->extended;
    i->lazy_refcounts = s->compatible & QCOW2_COMPAT_LAZY_REFCOUNTS;
    i->corrupt = s->incompatible & QCOW2_INCOMPAT_CORRUPT;
    i->has_data_file_raw = s->external;
    i->data_file_raw = s->raw;
    if (s->data_file)
        i->data_file = arena_strdup(a, s->data_file);
}

const struct blk_driver blk_qcow2 = {
    .name = "qcow2",
    .options = &qcow2_type,
    .state_size = sizeof(struct qcow2),
    .owner = true,
    .co_open = co_qcow2_open,
    .co_close = co_qcow2_close,
    .co_preadv = co_qcow2_preadv,
    .co_pwritev = co_qcow2_pwritev,
    .co_pwrite_zeroes = co_qcow2_pwrite_zeroes,
    .co_pdiscard = co_qcow2_pdiscard,
    .co_flush = co_qcow2_flush,
    .co_block_status = co_qcow2_block_status,
    .create_options = &qcow2_create_type,
    .co_create = co_qcow2_create,
    .co_check = co_qcow2_check,
    .info = &info_type,
    .get_info = qcow2_get_info,
};
REGISTER(blk_driver, blk_qcow2);
