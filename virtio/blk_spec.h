/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef VIRTIO_BLK_SPEC_H
#define VIRTIO_BLK_SPEC_H
/* Block device. Source: virtio 1.2, 5.2. Sectors are 512 bytes, whatever blk_size says. */
#include "kernel/endian.h"

#include <assert.h>

#define VIRTIO_BLK_SECTOR         512u

/* 5.2.3 feature bits */
#define VIRTIO_BLK_F_SIZE_MAX     1
#define VIRTIO_BLK_F_SEG_MAX      2
#define VIRTIO_BLK_F_RO           5
#define VIRTIO_BLK_F_BLK_SIZE     6
#define VIRTIO_BLK_F_FLUSH        9
#define VIRTIO_BLK_F_TOPOLOGY     10
#define VIRTIO_BLK_F_CONFIG_WCE   11
#define VIRTIO_BLK_F_MQ           12
#define VIRTIO_BLK_F_DISCARD      13
#define VIRTIO_BLK_F_WRITE_ZEROES 14

/* 5.2.4 device configuration */
struct virtio_blk_config {
    le64 capacity; /* sectors */
    le32 size_max;
    le32 seg_max;
    le16 cylinders;
    uint8_t heads, sectors;
    le32 blk_size;
    uint8_t physical_block_exp, alignment_offset; /* of blk_size blocks */
    le16 min_io_size;
    le32 opt_io_size; /* blocks */
    uint8_t writeback, unused0;
    le16 num_queues;
    le32 max_discard_sectors;
    le32 max_discard_seg;
    le32 discard_sector_alignment;
    le32 max_write_zeroes_sectors;
    le32 max_write_zeroes_seg;
    uint8_t write_zeroes_may_unmap, unused1[3];
};
static_assert(sizeof(struct virtio_blk_config) == 60, "5.2.4");

/* 5.2.6 request: header, data, one byte of status */
#define VIRTIO_BLK_T_IN           0u
#define VIRTIO_BLK_T_OUT          1u
#define VIRTIO_BLK_T_FLUSH        4u
#define VIRTIO_BLK_T_GET_ID       8u
#define VIRTIO_BLK_T_DISCARD      11u
#define VIRTIO_BLK_T_WRITE_ZEROES 13u
struct virtio_blk_req {
    le32 type;
    le32 reserved;
    le64 sector;
};
static_assert(sizeof(struct virtio_blk_req) == 16, "5.2.6");
struct virtio_blk_range { /* of discard and write zeroes */
    le64 sector;
    le32 num_sectors;
    le32 flags;
};
static_assert(sizeof(struct virtio_blk_range) == 16, "5.2.6");
#define VIRTIO_BLK_RANGE_UNMAP 1u
#define VIRTIO_BLK_ID_BYTES    20u

#define VIRTIO_BLK_S_OK        0u
#define VIRTIO_BLK_S_IOERR     1u
#define VIRTIO_BLK_S_UNSUPP    2u
#endif
