/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow2: making an image.
 *
 *     | header | refcount table | refcount blocks | L1 table | L2 tables | data      |
 *     0        1 cluster ...                                 `- preallocation only --'
 *
 * Everything is one run from the beginning of the file, so that each table is a line: entry i is
 * first + i * step, and every cluster has the refcount 1. Tables are written from one buffer,
 * whatever their length; how many refcount blocks there are depends on how many there are (they are
 * counted, too), and is found by going up until it fits.
 *
 * Order. What the file held is lost when its first sector is zero, and that is made durable before
 * anything else is written; the first sector of the header, with the magic, is written last, when
 * the rest is durable, and a sector is written whole or not at all. So a power cut leaves the old
 * image, none, or the new one.
 *
 * A file that grows is made empty first and reads as zeroes where it grows again, so zeroes are not
 * written there. On a disk they are: through the metadata, and through preallocated data.
 *
 * preallocation. metadata: L2 tables that map all clusters, in data that is a hole where holes are
 * possible. falloc: the same with space allocated; full: with zeroes written. With subclusters none
 * of them is marked, as QEMU does it: reads go to the backing still. data-file-raw implies metadata:
 * the data file must read the same with and without the image.
 *
 * What an external data file holds is kept, so that a raw image can be given an image as its header.
 *
 * Checks, their order and their sentences are QEMU's. Missing on purpose: encryption.
 */
#include "formats/qcow2/qcow2.h"

#include <string.h>

#define SECTOR   512u
#define BUF_SIZE BLK_MAX_PIECE
#define HEAD_MAX 4096u /* more than the longest names need */

/* ---- options: BlockdevCreateOptionsQcow2, in the order in which qemu-img lists them ---- */

enum { PREALLOC_OFF, PREALLOC_METADATA, PREALLOC_FALLOC, PREALLOC_FULL };
enum { VERSION_V2, VERSION_V3 };

static const char *const prealloc_names[] = {"off", "metadata", "falloc", "full", NULL};
static const char *const version_names[] = {"v2", "v3", NULL};
static const char *const compression_names[] = {
    [COMPRESSION_ZLIB] = "zlib", [COMPRESSION_ZSTD] = "zstd", NULL};
static const struct type type_prealloc = TYPE_ENUM_OF("PreallocMode", prealloc_names);
static const struct type type_version = TYPE_ENUM_OF("BlockdevQcow2Version", version_names);
static const struct type type_compression = TYPE_ENUM_OF("Qcow2CompressionType", compression_names);

struct options {
    uint64_t size, cluster_size;
    bool extended_l2, lazy_refcounts, has_data_file_raw, data_file_raw;
    bool has_preallocation, has_version;
    int preallocation, compression_type, version;
    const char *backing_file, *backing_fmt;
    struct schema_ref data_file;
    int64_t refcount_bits;
};
static const struct field fields[] = {
    FIELD_DEF(struct options, cluster_size, "cluster-size", &type_size, "65536",
              "Bytes of a cluster, 512 to 2 MiB"),
    FIELD_DEF(struct options, extended_l2, "extended-l2", &type_bool, "off",
              "Subclusters: 32 to a cluster, allocated each by itself"),
    FIELD_OPT(struct options, preallocation, "preallocation", &type_prealloc,
              "What is allocated at once (default: off)"),
    FIELD_DEF(struct options, compression_type, "compression-type", &type_compression, "zlib",
              "Compression of compressed clusters"),
    FIELD_REQ(struct options, size, "size", &type_size, "Bytes of the virtual disk"),
    FIELD_OPT(struct options, version, "version", &type_version,
              "Version of the format (default: v3)"),
    FIELD_OPTS(struct options, backing_file, "backing-file", &type_str,
               "Name of the image below, as the new one is to hold it"),
    FIELD_OPTS(struct options, backing_fmt, "backing-fmt", &type_str, "Its format"),
    {.name = "data-file",
     .type = &type_blockdev_ref,
     .offset = offsetof(struct options, data_file),
     .flags = FIELD_OPTIONAL,
     .doc = "Node that takes the data; the image keeps its file name"},
    FIELD_OPT(struct options, data_file_raw, "data-file-raw", &type_bool,
              "The data file must stay valid as a raw image (default: off)"),
    FIELD_DEF(struct options, lazy_refcounts, "lazy-refcounts", &type_bool, "off",
              "Refcounts may be written late, and be rebuilt after a crash"),
    FIELD_DEF(struct options, refcount_bits, "refcount-bits", &type_int, "16",
              "Width of a refcount, 1 to 64 bits"),
    {0},
};
const struct type qcow2_create_type =
    TYPE_STRUCT_OF("BlockdevCreateOptionsQcow2", struct options, fields);

/* ---- one creation ---- */

/* Offsets and lengths of the tables in the new file; bytes where nothing else is said. */
struct layout {
    uint64_t cluster;
    uint64_t table, table_clusters; /* refcount table */
    uint64_t blocks, nblocks;       /* refcount blocks */
    uint64_t l1, l1_entries;
    uint64_t l2, l2_tables;
    uint64_t data, data_clusters; /* guest clusters that are mapped */
    uint64_t total;               /* clusters of the file */
};
struct creation {
    const struct options *o;
    int preallocation; /* after what is implied */
    bool v3, fresh;    /* fresh: what is not written reads as zeroes */
    struct layout at;
    struct child *file;
    struct origin *data; /* of the data file, or NULL */
    uint8_t *buf;        /* BUF_SIZE */
    uint8_t head[HEAD_MAX];
    size_t head_len;
    struct error *err;
};

static uint64_t div_up(uint64_t a, uint64_t b)
{
    return a / b + !!(a % b);
}

/* ---- checks ---- */

static bool known_format(const char *name)
{
    registry_for_each (blk_driver, d)
        if (!strcmp((*d)->name, name))
            return true;
    return false;
}

static int check_clusters(const struct options *o, struct error *err)
{
    const uint64_t least = (1u << QCOW2_MIN_CLUSTER_BITS) << QCOW2_SUBCLUSTER_BITS;
    uint64_t c = o->cluster_size;
    if (!is_pow2(c) || c < 1u << QCOW2_MIN_CLUSTER_BITS || c > 1u << QCOW2_MAX_CLUSTER_BITS)
        return error_set(err, SR_EINVAL, "Cluster size must be a power of two between %u and %uk",
                         1u << QCOW2_MIN_CLUSTER_BITS, 1u << (QCOW2_MAX_CLUSTER_BITS - 10));
    if (o->extended_l2 && c < least)
        return error_set(err, SR_EINVAL,
                         "Extended L2 entries are only supported with cluster sizes of at least "
                         "%u bytes",
                         (unsigned)least);
    return 0;
}

static int check_backing(const struct options *o, struct error *err)
{
    if (o->backing_file && o->preallocation != PREALLOC_OFF && !o->extended_l2)
        return error_set(err, SR_EINVAL,
                         "Backing file and preallocation can only be used at the same time if "
                         "extended_l2 is on");
    if (o->backing_fmt && !o->backing_file)
        return error_set(err, SR_EINVAL, "Backing format cannot be used without backing file");
    if (o->backing_file && !o->backing_fmt)
        return error_set(err, SR_EINVAL, "Backing file specified without backing format");
    if (o->backing_fmt && !known_format(o->backing_fmt))
        return error_set(err, SR_EINVAL, "Parameter 'backing-fmt' does not accept value '%s'",
                         o->backing_fmt);
    return 0;
}

static int check_data_file(const struct options *o, struct error *err)
{
    if (o->data_file_raw && !o->data_file.present)
        return error_set(err, SR_EINVAL, "data-file-raw requires data-file");
    if (o->data_file_raw && o->backing_file)
        return error_set(err, SR_EINVAL,
                         "Backing file and data-file-raw cannot be used at the same time");
    return 0;
}

static int needs_v3(struct error *err, const char *what, const char *and)
{
    return error_set(err, SR_EINVAL,
                     "%s compatibility level 1.1 %s above (use version=v3 or greater)", what, and);
}

static int check_refcounts(const struct options *o, bool v3, struct error *err)
{
    if (o->lazy_refcounts && !v3)
        return needs_v3(err, "Lazy refcounts only supported with", "and");
    if (o->refcount_bits < 1 || o->refcount_bits > 64 || !is_pow2((uint64_t)o->refcount_bits))
        return error_set(err, SR_EINVAL,
                         "Refcount width must be a power of two and may not exceed 64 bits");
    if (o->refcount_bits != 16 && !v3)
        return needs_v3(err, "Different refcount widths than 16 bits require", "or");
    return 0;
}

static int check(const struct options *o, bool v3, struct error *err)
{
    if (o->size % SECTOR)
        return error_set(err, SR_EINVAL, "Image size must be a multiple of %u bytes", SECTOR);
    if (o->extended_l2 && !v3)
        return needs_v3(err, "Extended L2 entries are only supported with", "and");
    int r = check_clusters(o, err);
    if (!r)
        r = check_backing(o, err);
    if (!r)
        r = check_refcounts(o, v3, err);
    if (!r)
        r = check_data_file(o, err);
    if (!r && o->data_file.present && !v3)
        r = needs_v3(err, "External data files are only supported with", "and");
    if (!r && o->compression_type != COMPRESSION_ZLIB && !v3)
        r = needs_v3(err, "Non-zlib compression type is only supported with", "and");
    return r;
}

/* ---- layout ---- */

static int too_large(const struct creation *c)
{
    return error_set(c->err, SR_EINVAL,
                     "The image size is too large for file format 'qcow2' (try using a larger "
                     "cluster size)");
}

/* Refcount blocks count themselves and their table: more of them until all is covered. */
static void count_refcounts(struct layout *l, uint64_t others, uint64_t per_block)
{
    uint64_t before;
    l->nblocks = l->table_clusters = 1;
    do {
        before = l->nblocks + l->table_clusters;
        l->total = others + before;
        l->nblocks = div_up(l->total, per_block);
        l->table_clusters = div_up(l->nblocks * 8, l->cluster);
    } while (l->nblocks + l->table_clusters != before);
}

/* At most 2^54 clusters: no sum here overflows. */
static int lay_out(struct creation *c)
{
    const struct options *o = c->o;
    struct layout *l = &c->at;
    uint64_t entries = o->cluster_size / (o->extended_l2 ? 16 : 8);
    bool mapped = c->preallocation != PREALLOC_OFF, inside = mapped && !o->data_file.present;
    uint64_t clusters = div_up(o->size, o->cluster_size);
    l->cluster = o->cluster_size;
    l->l1_entries = div_up(clusters, entries);
    if (l->l1_entries > QCOW2_MAX_L1_BYTES / 8)
        return too_large(c);
    l->data_clusters = mapped ? clusters : 0;
    l->l2_tables = mapped ? l->l1_entries : 0;
    uint64_t l1_clusters = div_up(l->l1_entries * 8, l->cluster);
    count_refcounts(l, 1 + l1_clusters + l->l2_tables + (inside ? clusters : 0),
                    l->cluster * 8 / (uint64_t)o->refcount_bits);
    if (l->table_clusters > QCOW2_MAX_REFTABLE_BYTES / l->cluster ||
        l->total > (QCOW2_OFFSET_MASK + 512) / l->cluster)
        return too_large(c);
    l->table = l->cluster;
    l->blocks = l->table + l->table_clusters * l->cluster;
    l->l1 = l->blocks + l->nblocks * l->cluster;
    l->l2 = l->l1 + l1_clusters * l->cluster;
    l->data = inside ? l->l2 + l->l2_tables * l->cluster : 0;
    return 0;
}

/* ---- header ---- */

/* As QEMU writes it; left out where it would leave no place for a backing file's name. */
static const struct qcow2_feature_name features[] = {
    {0, 0, "dirty bit"},        {0, 1, "corrupt bit"},         {0, 2, "external data file"},
    {0, 3, "compression type"}, {0, 4, "extended L2 entries"}, {1, 0, "lazy refcounts"},
    {2, 0, "bitmaps"},          {2, 1, "raw external data"},
};
#define FEATURES_ABOVE 4096u

static int put(struct creation *c, const void *data, size_t len)
{
    size_t room = (size_t)MIN(HEAD_MAX, c->at.cluster);
    if (len > room - c->head_len)
        return SR_ENOSPC;
    memcpy(c->head + c->head_len, data, len);
    c->head_len += len;
    return 0;
}

static int put_extension(struct creation *c, uint32_t type, const void *data, size_t len)
{
    static const uint8_t padding[8];
    struct qcow2_extension e;
    be32_set(&e.type, type);
    be32_set(&e.len, (uint32_t)len);
    int r = put(c, &e, sizeof(e));
    if (!r)
        r = put(c, data, len);
    return r ? r : put(c, padding, -len & 7);
}

static uint64_t incompatible(const struct options *o)
{
    return (o->data_file.present ? QCOW2_INCOMPAT_DATA_FILE : 0u) |
           (o->compression_type != COMPRESSION_ZLIB ? QCOW2_INCOMPAT_COMPRESSION : 0u) |
           (o->extended_l2 ? QCOW2_INCOMPAT_EXTL2 : 0u);
}

static void put_fields(struct creation *c)
{
    const struct options *o = c->o;
    const struct layout *l = &c->at;
    struct qcow2_header h = {0};
    be32_set(&h.magic, QCOW2_MAGIC);
    be32_set(&h.version, c->v3 ? 3 : 2);
    be32_set(&h.cluster_bits, log2_floor(l->cluster));
    be64_set(&h.size, o->size);
    be32_set(&h.l1_size, (uint32_t)l->l1_entries);
    be64_set(&h.l1_table_offset, l->l1_entries ? l->l1 : 0);
    be64_set(&h.refcount_table_offset, l->table);
    be32_set(&h.refcount_table_clusters, (uint32_t)l->table_clusters);
    be64_set(&h.incompatible_features, incompatible(o));
    be64_set(&h.compatible_features, o->lazy_refcounts ? QCOW2_COMPAT_LAZY_REFCOUNTS : 0);
    be64_set(&h.autoclear_features, o->data_file_raw ? QCOW2_AUTOCLEAR_DATA_FILE_RAW : 0);
    be32_set(&h.refcount_order, log2_floor((uint64_t)o->refcount_bits));
    be32_set(&h.header_length, sizeof(h));
    h.compression_type = o->compression_type == COMPRESSION_ZSTD ? QCOW2_COMPRESSION_ZSTD
                                                                 : QCOW2_COMPRESSION_DEFLATE;
    c->head_len = c->v3 ? sizeof(h) : QCOW2_HEADER_V2;
    memcpy(c->head, &h, c->head_len);
}

static int put_extensions(struct creation *c)
{
    const char *fmt = c->o->backing_fmt, *data = c->data ? c->data->root->node->filename : "";
    int r = 0;
    if (fmt)
        r = put_extension(c, QCOW2_EXT_BACKING_FORMAT, fmt, strlen(fmt));
    if (!r && *data)
        r = put_extension(c, QCOW2_EXT_DATA_FILE, data, strlen(data));
    if (!r && c->v3 && c->at.cluster > FEATURES_ABOVE)
        r = put_extension(c, QCOW2_EXT_FEATURES, features, sizeof(features));
    return r ? r : put_extension(c, QCOW2_EXT_END, "", 0);
}

static int put_backing(struct creation *c)
{
    struct qcow2_header *h = (struct qcow2_header *)c->head;
    size_t len = strlen(c->o->backing_file);
    be64_set(&h->backing_file_offset, c->head_len);
    be32_set(&h->backing_file_size, (uint32_t)len);
    int r = len > QCOW2_MAX_NAME ? SR_EINVAL : put(c, c->o->backing_file, len);
    if (r)
        error_set(c->err, r, "Could not assign backing file '%s' with format '%s': %s",
                  c->o->backing_file, c->o->backing_fmt, sr_strerror(r));
    return r;
}

static int make_header(struct creation *c)
{
    put_fields(c);
    int r = put_extensions(c);
    if (r)
        return error_set(c->err, r, "Could not update qcow2 header: %s", sr_strerror(r));
    return c->o->backing_file ? put_backing(c) : 0;
}

/* ---- tables ---- */

/* Entry i is first + i * step, and words - 1 words of zeroes behind it. */
struct line {
    uint64_t off, count, first, step;
    unsigned words;
};

static int co_write_line(struct creation *c, struct line l)
{
    int r = 0;
    while (l.count && !r) {
        size_t n = (size_t)MIN(l.count, BUF_SIZE / 8 / l.words), len = n * 8 * l.words;
        be64 *word = (be64 *)c->buf;
        memset(c->buf, 0, len);
        for (size_t i = 0; i < n; i++, l.first += l.step)
            be64_set(&word[i * l.words], l.first);
        r = co_blk_pwrite(c->file, l.off, c->buf, len, 0);
        l.off += len;
        l.count -= n;
    }
    return r;
}

/* Refcounts of 1: narrow ones begin at the low end of a byte, wide ones are big-endian. */
static int co_write_refcounts(struct creation *c)
{
    static const uint8_t narrow[] = {[1] = 0xff, [2] = 0x55, [4] = 0x11};
    size_t bits = (size_t)c->o->refcount_bits, width = bits / 8;
    uint64_t total = c->at.total * bits, bytes = div_up(total, 8), off = c->at.blocks;
    int r = 0;
    memset(c->buf, width ? 0 : narrow[bits], BUF_SIZE);
    for (size_t i = width; width && i <= BUF_SIZE; i += width)
        c->buf[i - 1] = 1;
    while (bytes && !r) {
        size_t n = (size_t)MIN(bytes, BUF_SIZE);
        if (n == bytes && total % 8)
            c->buf[n - 1] &= (uint8_t)((1u << total % 8) - 1);
        r = co_blk_pwrite(c->file, off, c->buf, n, 0);
        off += n;
        bytes -= n;
    }
    return r;
}

static int co_write_tables(struct creation *c)
{
    const struct layout *l = &c->at;
    struct line table = {l->table, l->nblocks, l->blocks, l->cluster, 1};
    struct line l1 = {l->l1, l->l2_tables, l->l2 | QCOW2_COPIED, l->cluster, 1};
    struct line l2 = {l->l2, l->data_clusters, l->data | QCOW2_COPIED, l->cluster,
                      c->o->extended_l2 ? 2 : 1};
    int r = co_write_refcounts(c);
    if (!r)
        r = co_write_line(c, table);
    if (!r)
        r = co_write_line(c, l1);
    return r ? r : co_write_line(c, l2);
}

/* ---- data ---- */

static int co_write_zeroes(struct creation *c, struct child *f, uint64_t off, uint64_t end)
{
    int r = 0;
    memset(c->buf, 0, BUF_SIZE);
    while (off < end && !r) {
        size_t n = (size_t)MIN(end - off, BUF_SIZE);
        r = co_blk_pwrite(f, off, c->buf, n, 0);
        off += n;
    }
    return r;
}

/* [off, end) reads as zeroes afterwards; `fresh`: as it does before. */
static int co_preallocate(struct creation *c, struct child *f, uint64_t off, uint64_t end,
                          bool fresh)
{
    if (c->preallocation == PREALLOC_FULL)
        return co_write_zeroes(c, f, off, end);
    if (c->preallocation == PREALLOC_FALLOC)
        return co_blk_pwrite_zeroes(f, off, end - off, 0);
    return fresh ? 0 : co_blk_pwrite_zeroes(f, off, end - off, BLK_MAY_UNMAP);
}

/* What is behind its old end is new; a disk is what it is. */
static int co_make_data(struct creation *c)
{
    struct child *f = c->data->root;
    uint64_t old = f->node->size;
    int r = old < c->o->size ? co_blk_truncate(f, c->o->size) : 0;
    if (!r && old < c->o->size && c->preallocation != PREALLOC_OFF)
        r = co_preallocate(c, f, old, c->o->size, true);
    if (!r)
        r = co_blk_flush(f);
    if (r)
        error_set(c->err, r, "Could not resize data file: %s", sr_strerror(r));
    return r;
}

/* ---- the file ---- */

/* What was there is gone for good, and the file as large as it has to be. */
static int co_clear(struct creation *c)
{
    struct child *f = c->file;
    uint64_t end = c->at.total * c->at.cluster;
    int r = 0;
    if (f->node->size) {
        r = co_blk_pwrite_zeroes(f, 0, MIN(f->node->size, SECTOR), 0);
        if (!r)
            r = co_blk_flush(f);
    }
    if (!r)
        r = co_blk_truncate(f, 0);
    c->fresh = !f->node->size;
    if (!r)
        r = co_blk_truncate(f, align_up(end, f->node->limits.request_alignment));
    if (!r && !c->fresh)
        r = co_blk_pwrite_zeroes(f, 0, c->at.data ? c->at.data : end, BLK_MAY_UNMAP);
    if (r)
        error_set(c->err, r, "Could not resize image: %s", sr_strerror(r));
    return r;
}

/* All but the header's first sector, and durable. */
static int co_write_body(struct creation *c)
{
    int r = co_write_tables(c);
    if (!r && c->at.data)
        r = co_preallocate(c, c->file, c->at.data, c->at.total * c->at.cluster, c->fresh);
    if (!r && c->head_len > SECTOR)
        r = co_blk_pwrite(c->file, SECTOR, c->head + SECTOR, c->head_len - SECTOR, 0);
    if (!r)
        r = co_blk_flush(c->file);
    if (r)
        error_set(c->err, r, "Could not write the image: %s", sr_strerror(r));
    return r;
}

static int co_write_header(struct creation *c)
{
    int r = co_blk_pwrite(c->file, 0, c->head, MIN(c->head_len, SECTOR), 0);
    if (!r)
        r = co_blk_flush(c->file);
    if (r)
        error_set(c->err, r, "Could not write qcow2 header: %s", sr_strerror(r));
    return r;
}

/* ---- all together ---- */

/* The data file has no parent yet: requests to it come from an origin of our own. */
static int co_open_data(struct creation *c)
{
    const struct schema_ref *ref = &c->o->data_file;
    struct node *n = ref->name ? node_find(ref->name) : NULL;
    int r = 0;
    if (ref->name && !n)
        return error_set(c->err, SR_ENOENT, "Cannot find device='%s' nor node-name='%s'", ref->name,
                         ref->name);
    if (!n)
        r = co_node_open(ref->inl, ref->text, false, &n, c->err);
    if (r)
        return r;
    if (n == c->file->node)
        return error_set(c->err, SR_EINVAL, "The data file must not be the image itself");
    struct origin *o = blk_calloc(sizeof(*o));
    r = o ? origin_open(o, n, true, c->err) : SR_ENOMEM;
    if (!ref->name)
        co_node_unref(n); /* the origin has its own */
    if (r)
        blk_free(o);
    else
        c->data = o;
    return r;
}

static int co_create_all(struct creation *c)
{
    int r = lay_out(c);
    if (!r && c->o->data_file.present)
        r = co_open_data(c);
    if (!r)
        r = make_header(c);
    if (!r)
        r = co_clear(c);
    if (!r && c->data)
        r = co_make_data(c);
    if (!r)
        r = co_write_body(c);
    return r ? r : co_write_header(c);
}

static int co_create_checked(const struct options *o, bool v3, struct child *file,
                             struct error *err)
{
    struct creation *c = sr_calloc(1, sizeof(*c));
    int r = SR_ENOMEM;
    if (!c)
        return error_set(err, r, "%s", sr_strerror(r));
    *c = (struct creation){
        .o = o, .v3 = v3, .file = file, .preallocation = o->preallocation, .err = err};
    if (o->data_file_raw && o->preallocation == PREALLOC_OFF)
        c->preallocation = PREALLOC_METADATA;
    c->buf = fault(FAULT_ALLOC) ? NULL : page_alloc(BUF_SIZE);
    if (c->buf)
        r = co_create_all(c);
    if (c->buf)
        page_free(c->buf, BUF_SIZE);
    if (c->data)
        co_origin_close(c->data);
    blk_free(c->data);
    sr_free(c);
    if (r) /* whoever has not said more */
        error_set(err, r, "%s", sr_strerror(r));
    return r;
}

int co_qcow2_create(struct child *file, const void *opts, struct error *err)
{
    const struct options *o = opts;
    bool v3 = !o->has_version || o->version == VERSION_V3;
    int r = check(o, v3, err);
    return r ? r : co_create_checked(o, v3, file, err);
}
