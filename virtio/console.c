/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * virtio-console with named ports (virtio 1.2, 5.3): announces them by kernel/port.h.
 *
 * The host tells what ports there are over the control queues, in any order and at any time:
 *
 *     host                              we
 *     DEVICE_ADD port       ->
 *                           <-          PORT_READY
 *     PORT_NAME name        ->          port_announce; if somebody watches that name: buffers go
 *                           <-          PORT_OPEN 1    to the receive queue
 *     PORT_OPEN 1           ->          a fresh stream, port_connected
 *     PORT_OPEN 0           ->          what was received goes into the stream, as far as there is
 *                                       room; then it is hung up
 *
 * A port that nobody watches costs two queues and nothing else. Queues must exist before DRIVER_OK, so
 * there are those of PORTS ports; ports with higher numbers are passed over with a line.
 *
 * Data and control messages come through different queues. Control is handled first where both are
 * there, and at a hang-up the port's queue is emptied before; bytes that arrive while no stream is open
 * belong to a client that has gone, and are dropped.
 *
 * Missing on purpose: the console size, emergency write, devices without MULTIPORT.
 */
#include "virtio/console.h"

#include "kernel/fault.h"
#include "kernel/page.h"

#define PORTS      8u
#define CTRL_SLOTS 16u
#define CTRL_BYTES 128u /* a message and its name */

struct console {
    struct virtio_device *dev;
    struct virtq *ctrl_rx, *ctrl_tx;
    uint8_t *ctrl_memory; /* CTRL_SLOTS receive buffers, then as many to send */
    struct queue unsent;  /* struct message, when ctrl_tx was full */
    unsigned nports;
    struct console_port port[PORTS];
};
struct message {
    struct qlink link;
    struct virtio_console_control m;
};

static struct console *console_of(struct console_port *p)
{
    return p->dev->priv;
}

/* ---- Control messages out -------------------------------------------------------------------- */

static bool put_message(struct console *k, const struct virtio_console_control *m)
{
    struct virtq_chain c;
    uint16_t id;
    uint32_t len;
    while (virtq_pop(k->ctrl_tx, &id, &len))
        ;
    if (!virtq_begin(k->ctrl_tx, &c, 1))
        return false;
    uint8_t *slot = k->ctrl_memory + (CTRL_SLOTS + c.id) * CTRL_BYTES;
    memcpy(slot, m, sizeof(*m));
    virtq_out(&c, slot, sizeof(*m));
    virtq_push(k->ctrl_tx, &c, slot);
    return true;
}

/* Never lost while there is memory: a host that is slow to read them finds them in line. */
static void tell(struct console *k, unsigned port, unsigned event, unsigned value)
{
    struct virtio_console_control m;
    le32_set(&m.id, port);
    le16_set(&m.event, (uint16_t)event);
    le16_set(&m.value, (uint16_t)value);
    if (queue_empty(&k->unsent) && put_message(k, &m))
        return;
    struct message *w = sr_malloc(sizeof(*w));
    if (!w) {
        virtio_fail(k->dev, "no memory for a control message");
        return;
    }
    w->m = m;
    queue_push(&k->unsent, &w->link);
    k->ctrl_tx->quiet = false;
}

static bool ctrl_tx_poll(struct poller *poller)
{
    struct console *k = virtq_of_poller(poller)->dev->priv;
    bool some = false;
    while (!queue_empty(&k->unsent)) {
        struct message *w = container_of(k->unsent.first, struct message, link);
        if (!put_message(k, &w->m))
            return some;
        queue_pop(&k->unsent);
        sr_free(w);
        some = true;
    }
    k->ctrl_tx->quiet = true;
    return some;
}

/* ---- Data ------------------------------------------------------------------------------------ */

static void post_rx(struct console_port *p, struct rx_buffer *b)
{
    struct virtq_chain c;
    if (p->dev->broken || !virtq_begin(p->rx, &c, 1))
        return;
    virtq_in(&c, p->rx_memory + b->index * CONSOLE_PIECE, CONSOLE_PIECE);
    virtq_push(p->rx, &c, b);
}

static bool take_received(struct console_port *p)
{
    struct rx_buffer *b;
    uint16_t id;
    uint32_t len;
    bool some = false;
    while ((b = virtq_pop(p->rx, &id, &len))) { /* no more than there are buffers */
        b->len = len;
        b->off = 0;
        p->held[p->nheld++] = b;
        some = true;
    }
    return some;
}

void console_port_pull(struct console_port *p)
{
    unsigned done = 0;
    while (done < p->nheld) {
        struct rx_buffer *b = p->held[done];
        const uint8_t *data = p->rx_memory + b->index * CONSOLE_PIECE + b->off;
        size_t left = b->len - b->off;
        size_t n = p->stream ? console_stream_put(p->stream, data, left) : left;
        b->off += (uint32_t)n;
        if (n < left)
            break;
        post_rx(p, b);
        done++;
    }
    p->nheld -= done;
    memmove(p->held, p->held + done, p->nheld * sizeof(p->held[0]));
}

static struct console_port *port_of(struct virtq *q)
{
    struct console *k = q->dev->priv;
    return &k->port[q->index < VIRTIO_CONSOLE_QUEUE_CONTROL ? 0 : q->index / 2 - 1];
}

static bool tx_poll(struct poller *poller)
{
    struct virtq *q = virtq_of_poller(poller);
    struct console_port *p = port_of(q);
    uint16_t id;
    uint32_t len;
    bool some = false;
    while (virtq_pop(q, &id, &len))
        some = true;
    if (some) {
        console_tx_want(p, false);
        co_queue_wake_all(&p->tx_wait);
    }
    return some;
}

void console_tx_want(struct console_port *p, bool want)
{
    p->tx->quiet = !want;
}

uint8_t *console_tx_room(struct console_port *p, struct virtq_chain *c)
{
    uint16_t id;
    uint32_t len;
    while (virtq_pop(p->tx, &id, &len))
        ;
    return virtq_begin(p->tx, c, 1) ? p->tx_memory + c->id * CONSOLE_PIECE : NULL;
}

void console_tx_send(struct console_port *p, struct virtq_chain *c, size_t len)
{
    uint8_t *slot = p->tx_memory + c->id * CONSOLE_PIECE;
    virtq_out(c, slot, len);
    virtq_push(p->tx, c, slot);
}

/* ---- Ports ----------------------------------------------------------------------------------- */

static void open_stream(struct console_port *p)
{
    p->stream = console_stream_open(p);
    if (p->stream)
        port_connected(&p->port, console_stream_base(p->stream));
    else
        log_line("virtio-console", "%s: no memory for a stream", p->port.name);
}

static void close_stream(struct console_port *p)
{
    if (p->rx_memory) {
        take_received(p);
        console_port_pull(p);
        for (unsigned i = 0; i < p->nheld; i++)
            post_rx(p, p->held[i]); /* found no room; who would have read it has gone */
        p->nheld = 0;
    }
    if (p->stream)
        console_stream_hangup(p->stream);
    if (p->port.host_connected)
        port_connected(&p->port, NULL);
}

static bool rx_poll(struct poller *poller);

/* Somebody watches this port. */
static void wanted(struct port *port)
{
    struct console_port *p = container_of(port, struct console_port, port);
    p->rx_memory = page_alloc(2 * CONSOLE_SLOTS * CONSOLE_PIECE);
    if (!p->rx_memory) {
        log_line("virtio-console", "%s: no memory for its buffers", port->name);
        return;
    }
    p->tx_memory = p->rx_memory + CONSOLE_SLOTS * CONSOLE_PIECE;
    p->tx->quiet = true;
    for (unsigned i = 0; i < p->rx->size; i++) {
        p->rx_buffer[i].index = (uint8_t)i;
        post_rx(p, &p->rx_buffer[i]);
    }
    virtq_start(p->rx, rx_poll);
    virtq_start(p->tx, tx_poll);
    tell(console_of(p), p->id, VIRTIO_CONSOLE_PORT_OPEN, 1);
    if (p->host_open)
        open_stream(p);
}

static void set_open(struct console_port *p, bool open)
{
    if (open == p->host_open)
        return;
    p->host_open = open;
    if (open && p->rx_memory)
        open_stream(p);
    else if (!open)
        close_stream(p);
}

static void set_name(struct console_port *p, const uint8_t *name, size_t len)
{
    while (len && !name[len - 1]) /* some hosts send the terminator */
        len--;
    if (p->announced || !len || len > PORT_NAME_MAX || memchr(name, 0, len))
        return;
    memcpy(p->port.name, name, len);
    p->announced = true;
    port_announce(&p->port);
}

static void message(struct console *k, const uint8_t *data, size_t len)
{
    const struct virtio_console_control *m =
        (const struct virtio_console_control *)(const void *)data;
    if (len < sizeof(*m))
        return;
    unsigned id = le32_get(m->id), event = le16_get(m->event);
    if (id >= k->nports) {
        if (event == VIRTIO_CONSOLE_DEVICE_ADD)
            log_limited("virtio-console", "%s: port %u passed over; 0 to %u are used", k->dev->name,
                        id, k->nports - 1);
        return;
    }
    struct console_port *p = &k->port[id];
    if (event == VIRTIO_CONSOLE_DEVICE_ADD && !p->added) {
        p->added = true;
        tell(k, id, VIRTIO_CONSOLE_PORT_READY, 1);
    } else if (event == VIRTIO_CONSOLE_DEVICE_REMOVE) {
        set_open(p, false);
        p->added = false;
    } else if (event == VIRTIO_CONSOLE_PORT_OPEN) {
        set_open(p, le16_get(m->value) != 0);
    } else if (event == VIRTIO_CONSOLE_PORT_NAME) {
        set_name(p, data + sizeof(*m), len - sizeof(*m));
    }
}

static void post_ctrl(struct console *k, uint8_t *buffer)
{
    struct virtq_chain c;
    if (k->dev->broken || !virtq_begin(k->ctrl_rx, &c, 1))
        return;
    virtq_in(&c, buffer, CTRL_BYTES);
    virtq_push(k->ctrl_rx, &c, buffer);
}

static bool ctrl_poll(struct poller *poller)
{
    struct virtq *q = virtq_of_poller(poller);
    struct console *k = q->dev->priv;
    uint8_t *buffer;
    uint16_t id;
    uint32_t len;
    unsigned n = 0;
    for (; n < CTRL_SLOTS && (buffer = virtq_pop(q, &id, &len)); n++) {
        message(k, buffer, len);
        post_ctrl(k, buffer);
    }
    return n > 0;
}

/* Control goes first: the message that a client has come was sent before its bytes. */
static bool rx_poll(struct poller *poller)
{
    struct console_port *p = port_of(virtq_of_poller(poller));
    if (!take_received(p))
        return false;
    ctrl_poll(&console_of(p)->ctrl_rx->poller);
    console_port_pull(p);
    return true;
}

/* ---- Probe ----------------------------------------------------------------------------------- */

static int make_port(struct console *k, unsigned id)
{
    struct console_port *p = &k->port[id];
    unsigned queue = VIRTIO_CONSOLE_QUEUE(id);
    p->dev = k->dev;
    p->id = id;
    p->port.wanted = wanted;
    co_queue_init(&p->tx_wait);
    int rc = virtio_queue(k->dev, queue, CONSOLE_SLOTS, 1, 0, &p->rx);
    if (!rc)
        rc = virtio_queue(k->dev, queue + 1, CONSOLE_SLOTS, 1, 0, &p->tx);
    return rc;
}

static void load_ports(struct virtio_device *d, void *out)
{
    *(uint32_t *)out = virtio_cfg32(d, offsetof(struct virtio_console_config, max_nr_ports));
}

static int make_queues(struct console *k)
{
    uint32_t ports;
    int rc = virtio_cfg_load(k->dev, load_ports, &ports);
    if (!rc)
        rc = virtio_queue(k->dev, VIRTIO_CONSOLE_QUEUE_CONTROL, CTRL_SLOTS, 1, 0, &k->ctrl_rx);
    if (!rc)
        rc = virtio_queue(k->dev, VIRTIO_CONSOLE_QUEUE_CONTROL + 1, CTRL_SLOTS, 1, 0, &k->ctrl_tx);
    for (; !rc && k->nports < MIN(ports, PORTS); k->nports++)
        rc = make_port(k, k->nports);
    if (rc)
        return rc;
    k->ctrl_memory = page_alloc(2 * CTRL_SLOTS * CTRL_BYTES);
    return k->ctrl_memory && k->nports ? 0 : SR_ENOMEM;
}

static int co_probe(struct virtio_device *d)
{
    if (!virtio_has(d, VIRTIO_CONSOLE_F_MULTIPORT)) {
        log_line("virtio-console", "%s: has no named ports", d->name);
        return SR_ENOTSUP;
    }
    struct console *k = sr_calloc(1, sizeof(*k));
    if (!k)
        return SR_ENOMEM;
    k->dev = d;
    d->priv = k;
    queue_init(&k->unsent);
    int rc = make_queues(k);
    if (rc)
        return rc;
    virtio_ready(d);
    k->ctrl_tx->quiet = true;
    for (unsigned i = 0; i < k->ctrl_rx->size; i++)
        post_ctrl(k, k->ctrl_memory + i * CTRL_BYTES);
    virtq_start(k->ctrl_rx, ctrl_poll);
    virtq_start(k->ctrl_tx, ctrl_tx_poll);
    tell(k, 0, VIRTIO_CONSOLE_DEVICE_READY, 1);
    return 0;
}

static void lost(struct virtio_device *d)
{
    struct console *k = d->priv;
    for (unsigned i = 0; k && i < k->nports; i++)
        set_open(&k->port[i], false);
}

static void forget(struct virtio_device *d)
{
    struct console *k = d->priv;
    if (!k)
        return;
    for (unsigned i = 0; i < k->nports; i++) {
        if (k->port[i].announced)
            list_remove(&k->port[i].port.link);
        if (k->port[i].rx_memory)
            page_free(k->port[i].rx_memory, 2 * CONSOLE_SLOTS * CONSOLE_PIECE);
    }
    for (struct qlink *l; (l = queue_pop(&k->unsent));)
        sr_free(container_of(l, struct message, link));
    if (k->ctrl_memory)
        page_free(k->ctrl_memory, 2 * CTRL_SLOTS * CTRL_BYTES);
    sr_free(k);
}

const struct virtio_driver virtio_console_driver = {
    .name = "virtio-console",
    .id = VIRTIO_ID_CONSOLE,
    .features = 1ull << VIRTIO_CONSOLE_F_MULTIPORT,
    .co_probe = co_probe,
    .lost = lost,
    .forget = forget,
};
REGISTER(virtio_driver, virtio_console_driver);
