/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef VIRTIO_NET_SPEC_H
#define VIRTIO_NET_SPEC_H
/* Network device. Source: virtio 1.2, 5.1. */
#include "kernel/endian.h"

#include <assert.h>

/* 5.1.3 feature bits */
#define VIRTIO_NET_F_CSUM       0
#define VIRTIO_NET_F_GUEST_CSUM 1
#define VIRTIO_NET_F_MTU        3
#define VIRTIO_NET_F_MAC        5
#define VIRTIO_NET_F_GUEST_TSO4 7
#define VIRTIO_NET_F_GUEST_TSO6 8
#define VIRTIO_NET_F_HOST_TSO4  11
#define VIRTIO_NET_F_HOST_TSO6  12
#define VIRTIO_NET_F_MRG_RXBUF  15
#define VIRTIO_NET_F_STATUS     16

/* 5.1.4 device configuration */
struct virtio_net_config {
    uint8_t mac[6];
    le16 status;
    le16 max_virtqueue_pairs;
    le16 mtu;
};
static_assert(sizeof(struct virtio_net_config) == 12, "5.1.4");
#define VIRTIO_NET_S_LINK_UP 1u

/* 5.1.6 in front of each frame */
struct virtio_net_hdr {
    uint8_t flags;
    uint8_t gso_type;
    le16 hdr_len;
    le16 gso_size;
    le16 csum_start;
    le16 csum_offset;
    le16 num_buffers;
};
static_assert(sizeof(struct virtio_net_hdr) == 12, "5.1.6");
#define VIRTIO_NET_LEGACY_HDR       10u /* 5.1.6.1: without num_buffers, unless MRG_RXBUF */
#define VIRTIO_NET_HDR_F_NEEDS_CSUM 1u
#define VIRTIO_NET_HDR_F_DATA_VALID 2u
#define VIRTIO_NET_HDR_GSO_NONE     0u
#define VIRTIO_NET_HDR_GSO_TCPV4    1u
#define VIRTIO_NET_HDR_GSO_TCPV6    4u

#define VIRTIO_NET_QUEUE_RX         0u
#define VIRTIO_NET_QUEUE_TX         1u
#endif
