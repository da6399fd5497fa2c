/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef VIRTIO_DEVICE_VHOST_USER_SPEC_H
#define VIRTIO_DEVICE_VHOST_USER_SPEC_H
/*
 * vhost-user messages. Source: QEMU, docs/interop/vhost-user.rst; the names are the document's,
 * with BACKEND where QEMU 7.2 still says slave. A message is a header and `size` bytes of payload,
 * little-endian on every host that we know (the document says: of the host). Requests go from the
 * front end (the QEMU of the guest) to the back end; a reply repeats the request's number.
 */
#include "virtio/virtio_spec.h"

#define VHOST_USER_VERSION      1u /* bits 0 and 1 of the flags */
#define VHOST_USER_VERSION_MASK 3u
#define VHOST_USER_REPLY        4u
#define VHOST_USER_NEED_REPLY   8u
struct vhost_user_header {
    le32 request;
    le32 flags;
    le32 size; /* bytes of payload behind this header */
};
static_assert(sizeof(struct vhost_user_header) == 12, "message specification");

/* Requests of the front end that a block device gets, and what their payload is */
#define VHOST_USER_GET_FEATURES               1u /* reply: u64 */
#define VHOST_USER_SET_FEATURES               2u /* u64 */
#define VHOST_USER_SET_OWNER                  3u /* nothing */
#define VHOST_USER_RESET_OWNER                4u /* nothing */
#define VHOST_USER_SET_MEM_TABLE              5u /* vhost_user_memory; one descriptor for each region */
#define VHOST_USER_SET_VRING_NUM              8u  /* vhost_user_vring_state */
#define VHOST_USER_SET_VRING_ADDR             9u  /* vhost_user_vring_addr */
#define VHOST_USER_SET_VRING_BASE             10u /* vhost_user_vring_state */
#define VHOST_USER_GET_VRING_BASE             11u /* vhost_user_vring_state; reply: the same */
#define VHOST_USER_SET_VRING_KICK             12u /* u64, see VHOST_USER_VRING_*; a descriptor */
#define VHOST_USER_SET_VRING_CALL             13u /* the same */
#define VHOST_USER_SET_VRING_ERR              14u /* the same */
#define VHOST_USER_GET_PROTOCOL_FEATURES      15u /* reply: u64 */
#define VHOST_USER_SET_PROTOCOL_FEATURES      16u /* u64 */
#define VHOST_USER_GET_QUEUE_NUM              17u /* reply: u64 */
#define VHOST_USER_SET_VRING_ENABLE           18u /* vhost_user_vring_state */
#define VHOST_USER_SET_BACKEND_REQ_FD         21u /* nothing; a socket */
#define VHOST_USER_GET_CONFIG                 24u /* vhost_user_config; reply: exactly as long */
#define VHOST_USER_SET_CONFIG                 25u /* vhost_user_config */

/* Requests of the back end, on the socket of SET_BACKEND_REQ_FD */
#define VHOST_USER_BACKEND_CONFIG_CHANGE_MSG  2u /* nothing */

/* Bit of the virtio features that says: there are protocol features */
#define VHOST_USER_F_PROTOCOL_FEATURES        30
#define VHOST_F_LOG_ALL                       26

#define VHOST_USER_PROTOCOL_F_MQ              0
#define VHOST_USER_PROTOCOL_F_REPLY_ACK       3
#define VHOST_USER_PROTOCOL_F_BACKEND_REQ     5
#define VHOST_USER_PROTOCOL_F_CONFIG          9 /* QEMU's vhost-user-blk insists on this one */
#define VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD  12
#define VHOST_USER_PROTOCOL_F_CONFIGURE_SLOTS 15

/* u64 of SET_VRING_KICK, _CALL, _ERR */
#define VHOST_USER_VRING_INDEX                0xffu
#define VHOST_USER_VRING_NOFD                 0x100u /* no descriptor: poll, or do not signal */

struct vhost_user_vring_state {
    le32 index;
    le32 num; /* entries; first entry to process; on or off */
};
static_assert(sizeof(struct vhost_user_vring_state) == 8, "a vring state description");

struct vhost_user_vring_addr {
    le32 index;
    le32 flags;             /* bit 0: log writes to the used ring */
    le64 desc, used, avail; /* addresses in the front end's process */
    le64 log;
};
static_assert(sizeof(struct vhost_user_vring_addr) == 40, "a vring address description");

struct vhost_user_region {
    le64 guest_addr; /* what descriptors say */
    le64 size;
    le64 user_addr; /* what SET_VRING_ADDR says */
    le64 offset;    /* into the file */
};
static_assert(sizeof(struct vhost_user_region) == 32, "memory regions description");
#define VHOST_USER_REGIONS 8u
struct vhost_user_memory {
    le32 count;
    le32 padding;
    struct vhost_user_region region[]; /* count of them */
};
static_assert(sizeof(struct vhost_user_memory) == 8, "memory regions description");

#define VHOST_USER_CONFIG_BYTES 256u
struct vhost_user_config {
    le32 offset;
    le32 size;
    le32 flags;     /* SET_CONFIG: 1 during live migration */
    uint8_t data[]; /* size of them */
};
static_assert(sizeof(struct vhost_user_config) == 12, "virtio device config space");
#endif
