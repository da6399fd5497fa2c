/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef FORMATS_QCOW2_QCOW2_SPEC_H
#define FORMATS_QCOW2_QCOW2_SPEC_H
/*
 * qcow2 on the disk, as QEMU's docs/interop/qcow2.txt says, with its names. Everything is big-endian.
 * The limits at the end are QEMU's, so that what one of the two opens the other opens, too.
 */
#include "kernel/endian.h"

#include <assert.h>

#define QCOW2_MAGIC 0x514649fbu /* "QFI\xfb" */

struct qcow2_header {
    be32 magic;
    be32 version;
    be64 backing_file_offset;
    be32 backing_file_size;
    be32 cluster_bits;
    be64 size;
    be32 crypt_method;
    be32 l1_size;
    be64 l1_table_offset;
    be64 refcount_table_offset;
    be32 refcount_table_clusters;
    be32 nb_snapshots;
    be64 snapshots_offset;
    /* version 3 */
    be64 incompatible_features;
    be64 compatible_features;
    be64 autoclear_features;
    be32 refcount_order;
    be32 header_length;
    /* additional fields: present when header_length says so */
    uint8_t compression_type;
    uint8_t padding[7];
};
static_assert(sizeof(struct qcow2_header) == 112, "header with additional fields");
#define QCOW2_HEADER_V2 72u
#define QCOW2_HEADER_V3 104u

enum {
    QCOW2_INCOMPAT_DIRTY = 1,
    QCOW2_INCOMPAT_CORRUPT = 2,
    QCOW2_INCOMPAT_DATA_FILE = 4,
    QCOW2_INCOMPAT_COMPRESSION = 8,
    QCOW2_INCOMPAT_EXTL2 = 16,
    QCOW2_INCOMPAT_KNOWN = 31,
};
enum { QCOW2_COMPAT_LAZY_REFCOUNTS = 1 };
enum { QCOW2_AUTOCLEAR_BITMAPS = 1, QCOW2_AUTOCLEAR_DATA_FILE_RAW = 2 };
enum { QCOW2_COMPRESSION_DEFLATE = 0, QCOW2_COMPRESSION_ZSTD = 1 };

/* Header extensions: this, `len` bytes, padding to a multiple of 8. */
struct qcow2_extension {
    be32 type;
    be32 len;
};
static_assert(sizeof(struct qcow2_extension) == 8, "header extension");
#define QCOW2_EXT_END            0u
#define QCOW2_EXT_BACKING_FORMAT 0xe2792acau
#define QCOW2_EXT_FEATURES       0x6803f857u
#define QCOW2_EXT_BITMAPS        0x23852875u
#define QCOW2_EXT_DATA_FILE      0x44415441u

struct qcow2_feature_name {
    uint8_t type; /* 0: incompatible */
    uint8_t bit;
    char name[46]; /* padded with zeroes, not always ended by one */
};
static_assert(sizeof(struct qcow2_feature_name) == 48, "feature name");

struct qcow2_bitmaps_extension {
    be32 nb_bitmaps;
    be32 reserved;
    be64 bitmap_directory_size;
    be64 bitmap_directory_offset;
};
static_assert(sizeof(struct qcow2_bitmaps_extension) == 24, "bitmaps extension");

/* Snapshot table entry: this, extra data, ID, name, padding to a multiple of 8. */
struct qcow2_snapshot {
    be64 l1_table_offset;
    be32 l1_size;
    be16 id_str_size;
    be16 name_size;
    be32 date_sec;
    be32 date_nsec;
    be64 vm_clock_nsec;
    be32 vm_state_size;
    be32 extra_data_size;
};
static_assert(sizeof(struct qcow2_snapshot) == 40, "snapshot table entry");
#define QCOW2_SNAPSHOT_EXTRA_V3 16u /* bytes of extra data that version 3 requires */

/* Bitmap directory entry: this, extra data, name, padding to a multiple of 8. */
struct qcow2_bitmap {
    be64 bitmap_table_offset;
    be32 bitmap_table_size; /* entries */
    be32 flags;
    uint8_t type;
    uint8_t granularity_bits;
    be16 name_size;
    be32 extra_data_size;
};
static_assert(sizeof(struct qcow2_bitmap) == 24, "bitmap directory entry");
#define QCOW2_BITMAP_RESERVED      0xff000000000001feull /* bits of a bitmap table entry */
#define QCOW2_BITMAP_ONES          1ull                  /* without an offset: all ones */

/* Refcount table entries: an offset without its lowest bits. */
#define QCOW2_REFTABLE_RESERVED    0x1ffull

/* L1 and L2 entries. */
#define QCOW2_OFFSET_MASK          0x00fffffffffffe00ull
#define QCOW2_COPIED               (1ull << 63)
#define QCOW2_L1_RESERVED          0x7f000000000001ffull
#define QCOW2_L2_COMPRESSED        (1ull << 62)
#define QCOW2_L2_RESERVED          0x3f000000000001feull /* of a standard cluster */
#define QCOW2_L2_ZERO              1ull                  /* version 3, without extended entries */
#define QCOW2_SECTOR               512u                  /* unit of a compressed cluster's length */
#define QCOW2_SUBCLUSTER_BITS      5                     /* 32 subclusters in a cluster */
/* Second word of an extended entry: bit x, subcluster x is data; bit 32 + x: it is zero. */
#define QCOW2_ALL_DATA             0xffffffffull
#define QCOW2_ALL_ZERO             0xffffffff00000000ull

/* QEMU's limits. */
#define QCOW2_MIN_CLUSTER_BITS     9
#define QCOW2_MAX_CLUSTER_BITS     21
#define QCOW2_MAX_L1_BYTES         (32u << 20)
#define QCOW2_MAX_REFTABLE_BYTES   (8u << 20)
#define QCOW2_MAX_SNAPSHOTS        65536u
#define QCOW2_MAX_SNAPSHOT_EXTRA   1024u
#define QCOW2_MAX_SNAPSHOTS_BYTES  (1024u * QCOW2_MAX_SNAPSHOTS)
#define QCOW2_MAX_BITMAPS          65535u
#define QCOW2_MAX_BITMAP_DIRECTORY (QCOW2_MAX_BITMAPS * (1023u + 24))
#define QCOW2_MAX_NAME             1023u
#endif
