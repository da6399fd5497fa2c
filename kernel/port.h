/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef KERNEL_PORT_H
#define KERNEL_PORT_H
/*
 * Named ports to the host: byte channels that it opens and closes as it likes (virtio-console ports;
 * later a second UART). A driver announces them, in any order and at any time; who wants one watches
 * its name.
 *
 *     port_watch("org.strongroom.qmp", on_port, ctx);
 *     void on_port(void *ctx, struct port *p, bool connected)
 *
 * is called with true when the host side opens (also at once, when it was open already), then
 * p->stream is a fresh stream that the watcher owns and must close (co_stream_close) some time. It is
 * called with false when the host side closes: that stream gives what it still holds, then SR_EOF, and
 * takes nothing more (SR_EIO); p->stream is NULL from then on. Each opening brings another stream, so
 * no state survives a client.
 *
 * Names are the host's and unique by its care; of two ports with one name the first is found. Loop 0;
 * callbacks come from a poller and must not yield. Ports live for ever; a port that was unplugged
 * stays closed.
 */
#include "kernel/list.h"

struct stream;

#define PORT_NAME_MAX 63
struct port {
    struct list link;
    char name[PORT_NAME_MAX + 1];
    bool host_connected;
    struct stream *stream; /* the watcher's while connected and not closed, NULL otherwise */
    /* The driver's: somebody watches, so open our side. Called once. */
    void (*wanted)(struct port *p);
    bool watched;
};
typedef void port_watch_fn(void *ctx, struct port *p, bool connected);

struct port *port_find(const char *name); /* NULL */
/* SR_ENOMEM, SR_EBUSY: one watcher per name. */
int port_watch(const char *name, port_watch_fn *fn, void *ctx);

/* ---- For drivers ---- */
void port_announce(struct port *p); /* name and wanted are set; asks whether somebody watches */
/* stream: what the host opened, or NULL: it closed. Only for a port that is watched. */
void port_connected(struct port *p, struct stream *stream);
#endif
