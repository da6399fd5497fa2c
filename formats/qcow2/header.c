/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The header, from bytes to a checked description. No I/O here: the caller has read the beginning of
 * the file in one go.
 *
 *     0        72 or header_length                                 backing_file_offset      cluster
 *     | fields | extension | extension | ... | END |  (nothing)    | name |                 |
 *                type len data pad
 *
 * Order matters: version and feature bits decide whether the rest can be understood at all, so they
 * come first, and an unknown incompatible feature is named from the feature table, for which the
 * extensions are walked before anything in them is believed. Sentences are QEMU's where it has one.
 *
 * Tables are checked to be aligned, of bearable size, behind the header and inside the file. Entries
 * are checked when they are used: map.c.
 */
#include "formats/qcow2/qcow2.h"

#include <stdio.h>
#include <string.h>

struct parser {
    struct qcow2_image *img;
    struct qcow2_header h; /* fields that the file does not have are 0 */
    const uint8_t *head;
    size_t len;
    uint64_t file_size;
    uint32_t header_length;
    const struct qcow2_feature_name *names; /* feature table, or NULL */
    size_t nnames;
    bool bitmaps;
    bool repair; /* what can be made anew may be wrong */
    struct error *err;
};

static uint64_t cluster_size(const struct parser *p)
{
    return 1ull << p->img->cluster_bits;
}

/* ---- the fields that decide about the others ---- */

static int parse_version(struct parser *p)
{
    size_t have = MIN(p->len, sizeof(p->h));
    if (have < QCOW2_HEADER_V2)
        return error_set(p->err, SR_EINVAL, "Could not read qcow2 header: file is too short");
    memcpy(&p->h, p->head, have);
    if (be32_get(p->h.magic) != QCOW2_MAGIC)
        return error_set(p->err, SR_EINVAL, "Image is not in qcow2 format");
    p->img->version = be32_get(p->h.version);
    if (p->img->version != 2 && p->img->version != 3)
        return error_set(p->err, SR_ENOTSUP, "Unsupported qcow2 version %u", p->img->version);
    if (p->img->version == 3 && have < QCOW2_HEADER_V3)
        return error_set(p->err, SR_EINVAL, "Could not read qcow2 header: file is too short");
    p->img->cluster_bits = be32_get(p->h.cluster_bits);
    if (p->img->cluster_bits < QCOW2_MIN_CLUSTER_BITS ||
        p->img->cluster_bits > QCOW2_MAX_CLUSTER_BITS)
        return error_set(p->err, SR_EINVAL, "Unsupported cluster size: 2^%u", p->img->cluster_bits);
    return 0;
}

/* Fields of version 3, or what version 2 means instead. */
static int parse_v3(struct parser *p)
{
    struct qcow2_image *img = p->img;
    p->header_length = QCOW2_HEADER_V2;
    img->refcount_order = 4;
    if (img->version == 2)
        return 0;
    p->header_length = be32_get(p->h.header_length);
    if (p->header_length < QCOW2_HEADER_V3)
        return error_set(p->err, SR_EINVAL, "qcow2 header too short");
    if (p->header_length % 8)
        return error_set(p->err, SR_EINVAL, "qcow2 header length is not a multiple of 8");
    if (p->header_length > cluster_size(p))
        return error_set(p->err, SR_EINVAL, "qcow2 header exceeds cluster size");
    if (p->header_length > p->len)
        return error_set(p->err, SR_EINVAL, "Could not read qcow2 header: file is too short");
    img->incompatible = be64_get(p->h.incompatible_features);
    img->compatible = be64_get(p->h.compatible_features);
    img->autoclear = be64_get(p->h.autoclear_features);
    img->refcount_order = be32_get(p->h.refcount_order);
    return 0;
}

/* "The field must be present and non-zero" exactly with the feature bit. */
static int parse_compression(struct parser *p)
{
    unsigned type = 0;
    if (p->img->version == 3 && p->header_length > offsetof(struct qcow2_header, compression_type))
        type = p->h.compression_type;
    if (type > QCOW2_COMPRESSION_ZSTD)
        return error_set(p->err, SR_ENOTSUP, "qcow2: unknown compression type: %u", type);
    if (!type != !(p->img->incompatible & QCOW2_INCOMPAT_COMPRESSION))
        return error_set(p->err, SR_EINVAL,
                         "qcow2: Compression type incompatible feature bit must %sbe set",
                         type ? "" : "not ");
    p->img->compression = type ? COMPRESSION_ZSTD : COMPRESSION_ZLIB;
    return 0;
}

/* Where extensions end. */
static int check_backing(struct parser *p)
{
    if (be64_get(p->h.backing_file_offset) > cluster_size(p))
        return error_set(p->err, SR_EINVAL, "Invalid backing file offset");
    return 0;
}

/* ---- extensions ---- */

static int take_string(struct parser *p, const uint8_t *data, size_t len, char *to, size_t room,
                       const char *what)
{
    if (len >= room)
        return error_set(p->err, SR_EINVAL, "%s in the header is too long (%zu bytes)", what, len);
    if (memchr(data, 0, len))
        return error_set(p->err, SR_EINVAL, "%s in the header contains a zero byte", what);
    memcpy(to, data, len);
    to[len] = 0;
    return 0;
}

static int take_bitmaps(struct parser *p, const uint8_t *data, size_t len)
{
    struct qcow2_bitmaps_extension b;
    if (!(p->img->autoclear & QCOW2_AUTOCLEAR_BITMAPS))
        return 0; /* "must be considered inconsistent" */
    if (len != sizeof(b))
        return error_set(p->err, SR_EINVAL, "bitmaps_ext: Invalid extension length");
    memcpy(&b, data, len);
    uint64_t size = be64_get(b.bitmap_directory_size), off = be64_get(b.bitmap_directory_offset);
    uint32_t nb = be32_get(b.nb_bitmaps);
    if (be32_get(b.reserved))
        return error_set(p->err, SR_EINVAL, "bitmaps_ext: Reserved field is not zero");
    if (!nb || nb > QCOW2_MAX_BITMAPS)
        return error_set(p->err, SR_EINVAL, "bitmaps_ext: image has %u bitmaps", nb);
    if (off & (cluster_size(p) - 1) || !off || !range_ok(off, size, p->file_size))
        return error_set(p->err, SR_EINVAL, "bitmaps_ext: invalid bitmap directory offset");
    if (size > QCOW2_MAX_BITMAP_DIRECTORY)
        return error_set(p->err, SR_EINVAL, "bitmaps_ext: bitmap directory size is too large");
    p->bitmaps = true;
    p->img->nb_bitmaps = nb;
    p->img->bitmaps_offset = off;
    p->img->bitmaps_bytes = size;
    return 0;
}

static int take_extension(struct parser *p, uint32_t type, const uint8_t *data, size_t len)
{
    struct qcow2_image *img = p->img;
    switch (type) {
    case QCOW2_EXT_BACKING_FORMAT:
        img->has_format = true;
        return take_string(p, data, len, img->format, sizeof(img->format), "Backing format");
    case QCOW2_EXT_DATA_FILE:
        img->has_data_file = true;
        return take_string(p, data, len, img->data_file, sizeof(img->data_file), "Data file name");
    case QCOW2_EXT_FEATURES:
        p->names = (const struct qcow2_feature_name *)data;
        p->nnames = len / sizeof(*p->names);
        return 0;
    case QCOW2_EXT_BITMAPS:
        return take_bitmaps(p, data, len);
    default:
        return 0; /* "can be safely ignored" */
    }
}

static int parse_extensions(struct parser *p)
{
    uint64_t backing = be64_get(p->h.backing_file_offset);
    uint64_t end = backing ? backing : cluster_size(p), at = p->header_length;
    end = MIN(end, p->file_size);
    while (at < end) {
        struct qcow2_extension x;
        if (end - at < sizeof(x))
            break;
        if (!range_ok(at, sizeof(x), p->len))
            return error_set(p->err, SR_EINVAL, "Header extension too large");
        memcpy(&x, p->head + at, sizeof(x));
        at += sizeof(x);
        uint32_t type = be32_get(x.type), len = be32_get(x.len);
        if (type == QCOW2_EXT_END)
            break;
        if (len > end - at || !range_ok(at, len, p->len))
            return error_set(p->err, SR_EINVAL, "Header extension too large");
        int r = take_extension(p, type, p->head + at, len);
        if (r)
            return r;
        at += align_up(len, 8);
    }
    return 0;
}

/* ---- features ---- */

static const char *feature_name(const struct parser *p, unsigned bit)
{
    for (size_t i = 0; i < p->nnames; i++)
        if (p->names[i].type == 0 && p->names[i].bit == bit)
            return p->names[i].name;
    return NULL;
}

/* Names are foreign bytes on their way to a console. */
static int put_name(char *to, size_t room, const char *name)
{
    size_t n = 0;
    for (; n < sizeof(((struct qcow2_feature_name *)0)->name) && name[n] && n + 1 < room; n++)
        to[n] = name[n] >= ' ' && name[n] <= '~' ? name[n] : '?';
    to[n] = 0;
    return (int)n;
}

static __attribute__((noinline)) int refuse_features(struct parser *p, uint64_t unknown)
{
    char text[200] = "";
    size_t at = 0;
    for (unsigned bit = 0; bit < 64 && at + 60 < sizeof(text); bit++) {
        if (!(unknown >> bit & 1))
            continue;
        const char *name = feature_name(p, bit);
        if (at)
            at += (size_t)snprintf(text + at, sizeof(text) - at, ", ");
        if (name && *name)
            at += (size_t)put_name(text + at, sizeof(text) - at, name);
        else
            at += (size_t)snprintf(text + at, sizeof(text) - at,
                                   "Unknown incompatible feature: %llx", 1ull << bit);
    }
    return error_set(p->err, SR_ENOTSUP, "Unsupported qcow2 feature(s): %s", text);
}

static int check_features(struct parser *p)
{
    const struct qcow2_image *img = p->img;
    uint64_t unknown = img->incompatible & ~(uint64_t)QCOW2_INCOMPAT_KNOWN;
    if (unknown) {
        struct error *err = p->err;
        p->err = NULL; /* what is wrong in there only costs the names */
        (void)parse_extensions(p);
        p->err = err;
        return refuse_features(p, unknown);
    }
    unsigned unit_bits = img->cluster_bits;
    if (img->incompatible & QCOW2_INCOMPAT_EXTL2)
        unit_bits -= QCOW2_SUBCLUSTER_BITS;
    if (unit_bits < QCOW2_MIN_CLUSTER_BITS)
        return error_set(p->err, SR_EINVAL, "Unsupported subcluster size: %u", 1u << unit_bits);
    if (img->refcount_order > 6)
        return error_set(p->err, SR_EINVAL,
                         "Reference count entry width too large; may not exceed 64 bits");
    if (be32_get(p->h.crypt_method))
        return error_set(p->err, SR_ENOTSUP,
                         "qcow2: encrypted images are not supported (encryption method %u)",
                         be32_get(p->h.crypt_method));
    return 0;
}

/* ---- tables ---- */

/* A table of `bytes` bytes at `off`: aligned, behind the header, inside the file (a check looks at that
 * by itself). */
static int check_table(struct parser *p, uint64_t off, uint64_t bytes, uint64_t max,
                       const char *what)
{
    if (bytes > max)
        return error_set(p->err, SR_EINVAL, "%s too large", what);
    if (off & (cluster_size(p) - 1))
        return error_set(p->err, SR_EINVAL, "%s offset invalid", what);
    if (bytes && (!off || !range_ok(off, bytes, p->repair ? INT64_MAX : p->file_size)))
        return error_set(p->err, SR_EINVAL, "%s offset invalid", what);
    return 0;
}

static bool overlap(uint64_t a, uint64_t alen, uint64_t b, uint64_t blen)
{
    return alen && blen && (a < b ? b - a < alen : a - b < blen);
}

static int check_refcounts(struct parser *p)
{
    struct qcow2_image *img = p->img;
    uint64_t clusters = be32_get(p->h.refcount_table_clusters);
    img->reftable_offset = be64_get(p->h.refcount_table_offset);
    img->reftable_bytes = clusters << img->cluster_bits;
    if (p->repair)
        return 0;
    if (!clusters)
        return error_set(p->err, SR_EINVAL, "Image does not contain a reference count table");
    return check_table(p, img->reftable_offset, img->reftable_bytes, QCOW2_MAX_REFTABLE_BYTES,
                       "Reference count table");
}

static int check_l1(struct parser *p)
{
    struct qcow2_image *img = p->img;
    unsigned entry_bits = img->incompatible & QCOW2_INCOMPAT_EXTL2 ? 4 : 3;
    unsigned l2_shift = 2 * img->cluster_bits - entry_bits;
    img->l1_offset = be64_get(p->h.l1_table_offset);
    img->l1_size = be32_get(p->h.l1_size);
    img->size = be64_get(p->h.size);
    int r =
        check_table(p, img->l1_offset, 8ull * img->l1_size, QCOW2_MAX_L1_BYTES, "Active L1 table");
    if (r)
        return r;
    uint64_t need = img->size >> l2_shift;
    need += !is_aligned(img->size, 1ull << l2_shift);
    if (need > INT32_MAX)
        return error_set(p->err, SR_EINVAL, "Image is too big");
    if (img->l1_size < need)
        return error_set(p->err, SR_EINVAL, "L1 table is too small");
    return 0;
}

static int check_tables(struct parser *p)
{
    struct qcow2_image *img = p->img;
    int r = check_refcounts(p);
    if (r)
        return r;
    img->nb_snapshots = be32_get(p->h.nb_snapshots);
    img->snapshots_offset = be64_get(p->h.snapshots_offset);
    r = check_table(p, img->snapshots_offset, img->nb_snapshots * sizeof(struct qcow2_snapshot),
                    QCOW2_MAX_SNAPSHOTS * sizeof(struct qcow2_snapshot), "Snapshot table");
    if (r)
        return r;
    r = check_l1(p);
    if (r)
        return r;
    if (!p->repair &&
        overlap(img->l1_offset, 8ull * img->l1_size, img->reftable_offset, img->reftable_bytes))
        return error_set(p->err, SR_EINVAL, "Active L1 table and reference count table overlap");
    return 0;
}

/* ---- names ---- */

static int parse_backing(struct parser *p)
{
    uint64_t off = be64_get(p->h.backing_file_offset);
    uint32_t len = be32_get(p->h.backing_file_size);
    if (!off)
        return 0;
    if (len > MIN((uint64_t)QCOW2_MAX_NAME, cluster_size(p) - off))
        return error_set(p->err, SR_EINVAL, "Backing file name too long");
    if (!range_ok(off, len, p->len))
        return error_set(p->err, SR_EINVAL, "Could not read backing file name");
    p->img->has_backing = len > 0;
    return take_string(p, p->head + off, len, p->img->backing, sizeof(p->img->backing),
                       "Backing file name");
}

static int check_flags(struct parser *p)
{
    const struct qcow2_image *img = p->img;
    bool external = img->incompatible & QCOW2_INCOMPAT_DATA_FILE;
    if ((img->autoclear & QCOW2_AUTOCLEAR_DATA_FILE_RAW) && !external)
        return error_set(p->err, SR_EINVAL, "data-file-raw requires a data file");
    if ((img->autoclear & QCOW2_AUTOCLEAR_BITMAPS) && !p->bitmaps)
        return error_set(p->err, SR_EINVAL, "bitmaps_ext: Header extension is missing");
    return 0;
}

static int parse(struct parser p)
{
    static int (*const steps[])(struct parser *) = {
        parse_version, parse_v3,         parse_compression, check_backing, check_features,
        check_tables,  parse_extensions, parse_backing,     check_flags,
    };
    memset(p.img, 0, sizeof(*p.img));
    int r = 0;
    for (size_t i = 0; i < ARRAY_LEN(steps) && !r; i++)
        r = steps[i](&p);
    return r;
}

int qcow2_parse_header(struct qcow2_image *img, const uint8_t *head, size_t len, uint64_t file_size,
                       struct error *err)
{
    return parse(
        (struct parser){.img = img, .head = head, .len = len, .file_size = file_size, .err = err});
}

int qcow2_parse_header_to_repair(struct qcow2_image *img, const uint8_t *head, size_t len,
                                 uint64_t file_size, struct error *err)
{
    return parse((struct parser){
        .img = img, .head = head, .len = len, .file_size = file_size, .repair = true, .err = err});
}
