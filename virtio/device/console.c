/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A console with ports, for the loopback arrangement (virtio 1.2, 5.3): the host side of ports that
 * a test opens, closes, and talks through.
 */
#include "kernel/fault.h"
#include "virtio/device/models.h"

#define CTRL VIRTIO_CONSOLE_QUEUE_CONTROL

struct event {
    struct qlink link;
    size_t len;
    uint8_t bytes[];
};

static struct vconsole *of(struct vdev *v)
{
    return container_of(v, struct vconsole, v);
}

static void send_events(struct vconsole *c)
{
    struct vchain chain;
    while (!queue_empty(&c->events) && c->v.open[CTRL] && vdev_next(&c->v, CTRL, &chain)) {
        struct event *e = container_of(queue_pop(&c->events), struct event, link);
        size_t len = MIN(e->len, chain.in_len);
        iov_copy_in(vchain_in(&chain), 0, e->bytes, len);
        vring_push(&c->v.ring[CTRL], chain.id, (uint32_t)len);
        sr_free(e);
    }
    vdev_interrupt(&c->v, CTRL);
}

void vconsole_control(struct vconsole *c, unsigned port, unsigned event, unsigned value,
                      const void *more, size_t len)
{
    struct event *e = sr_malloc(sizeof(*e) + sizeof(struct virtio_console_control) + len);
    if (!e)
        return;
    struct virtio_console_control *m = (struct virtio_console_control *)(void *)e->bytes;
    le32_set(&m->id, port);
    le16_set(&m->event, (uint16_t)event);
    le16_set(&m->value, (uint16_t)value);
    e->len = sizeof(*m) + len;
    if (len)
        memcpy(e->bytes + sizeof(*m), more, len);
    queue_push(&c->events, &e->link);
    if (c->driver_ready)
        send_events(c);
}

static void send_data(struct vconsole *c, unsigned port)
{
    struct vconsole_port *p = &c->port[port];
    unsigned q = VIRTIO_CONSOLE_QUEUE(port);
    struct vchain chain;
    while (p->nout && p->guest_open && vdev_next(&c->v, q, &chain)) {
        size_t n = MIN(p->nout, chain.in_len);
        iov_copy_in(vchain_in(&chain), 0, p->out, n);
        vring_push(&c->v.ring[q], chain.id, (uint32_t)n);
        p->out += n;
        p->nout -= n;
    }
    if (p->guest_open)
        vdev_interrupt(&c->v, q);
}

static void receive_data(struct vconsole *c, unsigned port)
{
    struct vconsole_port *p = &c->port[port];
    unsigned q = VIRTIO_CONSOLE_QUEUE(port) + 1;
    struct vchain chain;
    while (!c->stuck && vdev_next(&c->v, q, &chain)) {
        size_t n = MIN(chain.out_len, sizeof(p->got) - p->ngot);
        iov_copy_out(p->got + p->ngot, vchain_out(&chain), 0, n);
        p->ngot += n;
        vring_push(&c->v.ring[q], chain.id, 0);
    }
    vdev_interrupt(&c->v, q);
}

void vconsole_unstick(struct vconsole *c)
{
    c->stuck = false;
    for (unsigned i = 0; i < VCONSOLE_PORTS; i++)
        if (c->port[i].guest_open)
            receive_data(c, i);
}

void vconsole_send(struct vconsole *c, unsigned port, const void *data, size_t len)
{
    c->port[port].out = data;
    c->port[port].nout = len;
    send_data(c, port);
}

void vconsole_connect(struct vconsole *c, unsigned port, bool open)
{
    c->port[port].connected = open;
    c->port[port].nout = 0;
    if (c->port[port].ready)
        vconsole_control(c, port, VIRTIO_CONSOLE_PORT_OPEN, open, NULL, 0);
}

void vconsole_add(struct vconsole *c, unsigned port, const char *name)
{
    c->port[port].name = name;
    if (c->driver_ready)
        vconsole_control(c, port, VIRTIO_CONSOLE_DEVICE_ADD, 1, NULL, 0);
}

/* ---- What the driver says -------------------------------------------------------------------- */

static void ready(struct vconsole *c)
{
    c->driver_ready = true;
    for (unsigned i = 0; i < VCONSOLE_PORTS; i++)
        if (c->port[i].name)
            vconsole_control(c, i, VIRTIO_CONSOLE_DEVICE_ADD, 1, NULL, 0);
}

static void port_ready(struct vconsole *c, unsigned port)
{
    struct vconsole_port *p = &c->port[port];
    p->ready = true;
    vconsole_control(c, port, VIRTIO_CONSOLE_PORT_NAME, 1, p->name, strlen(p->name) + 1);
    if (p->connected)
        vconsole_control(c, port, VIRTIO_CONSOLE_PORT_OPEN, 1, NULL, 0);
}

static void control(struct vconsole *c, struct iov out)
{
    struct virtio_console_control m;
    if (out.len < sizeof(m))
        return;
    iov_copy_out(&m, out, 0, sizeof(m));
    unsigned port = le32_get(m.id), event = le16_get(m.event);
    if (event == VIRTIO_CONSOLE_DEVICE_READY)
        ready(c);
    if (port >= VCONSOLE_PORTS || !c->port[port].name)
        return;
    if (event == VIRTIO_CONSOLE_PORT_READY)
        port_ready(c, port);
    if (event == VIRTIO_CONSOLE_PORT_OPEN) {
        c->port[port].guest_open = le16_get(m.value);
        send_data(c, port);
    }
}

static void work(struct vdev *v, unsigned queue)
{
    struct vconsole *c = of(v);
    struct vchain chain;
    if (queue == CTRL) {
        send_events(c);
    } else if (queue == CTRL + 1) {
        while (vdev_next(v, queue, &chain)) {
            control(c, vchain_out(&chain));
            vring_push(&v->ring[queue], chain.id, 0);
        }
        vdev_interrupt(v, queue);
    } else {
        unsigned port = queue < CTRL ? 0 : queue / 2 - 1;
        if (queue % 2)
            receive_data(c, port);
        else
            send_data(c, port);
    }
}

static void reset(struct vdev *v)
{
    struct vconsole *c = of(v);
    struct qlink *l;
    while ((l = queue_pop(&c->events)))
        sr_free(container_of(l, struct event, link));
    c->driver_ready = false;
}

static const struct vdev_ops ops = {.work = work, .reset = reset};

void vconsole_init(struct vconsole *c)
{
    memset(c, 0, sizeof(*c));
    c->v = (struct vdev){
        .ops = &ops, .id = VIRTIO_ID_CONSOLE, .nqueues = 2 * VCONSOLE_PORTS + 2, .queue_max = 64};
    c->v.offered = 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_F_EVENT_IDX |
                   1ull << VIRTIO_CONSOLE_F_MULTIPORT;
    struct virtio_console_config *cfg = (struct virtio_console_config *)(void *)c->v.config;
    le32_set(&cfg->max_nr_ports, VCONSOLE_PORTS);
    queue_init(&c->events);
}
