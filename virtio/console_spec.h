/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef VIRTIO_CONSOLE_SPEC_H
#define VIRTIO_CONSOLE_SPEC_H
/* Console device. Source: virtio 1.2, 5.3. */
#include "kernel/endian.h"

#include <assert.h>

#define VIRTIO_CONSOLE_F_MULTIPORT 1

struct virtio_console_config {
    le16 cols, rows;
    le32 max_nr_ports;
    le32 emerg_wr;
};
static_assert(sizeof(struct virtio_console_config) == 12, "5.3.4");

/* 5.3.2 queues: 0, 1 port 0; 2, 3 control; then two for each further port; receive is even */
#define VIRTIO_CONSOLE_QUEUE_CONTROL 2u
#define VIRTIO_CONSOLE_QUEUE(port)   ((port) ? 2 * (port) + 2 : 0)

/* 5.3.6.2 control messages; a name follows PORT_NAME, without a terminator */
struct virtio_console_control {
    le32 id; /* port */
    le16 event;
    le16 value;
};
static_assert(sizeof(struct virtio_console_control) == 8, "5.3.6.2");
#define VIRTIO_CONSOLE_DEVICE_READY  0u
#define VIRTIO_CONSOLE_DEVICE_ADD    1u
#define VIRTIO_CONSOLE_DEVICE_REMOVE 2u
#define VIRTIO_CONSOLE_PORT_READY    3u
#define VIRTIO_CONSOLE_CONSOLE_PORT  4u
#define VIRTIO_CONSOLE_RESIZE        5u
#define VIRTIO_CONSOLE_PORT_OPEN     6u
#define VIRTIO_CONSOLE_PORT_NAME     7u
#endif
