/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a virtio device can say. The first byte of an input chooses the driver, the second which of
 * the core's features the device offers; then come its own features (3 bytes, and one that says
 * whether its rings are packed, or it is a legacy device), its configuration
 * (as many bytes as it has), and a program, a byte per step and its arguments, that the device runs while the driver
 * works:
 *
 *     0  complete the oldest request: filled with the next bytes, length as it should be
 *     1  complete the oldest request with that length        4  new configuration byte
 *     2  a used entry with any id and length                 5  status bits appear
 *     3  the used index jumps                                6  the wish for notifications changes
 *     7  bytes appear in the memory of the oldest request, which stays
 *     8  the user of the driver does something (reads, writes, sends, ...)
 *     9  complete all requests                               10  turns of the loop
 *    11  a descriptor of a packed ring changes
 *
 * Whatever it says: every request ends, all memory comes back. Kind 4 is a PCI function whose
 * capabilities are the input, in front of registers that are plain memory.
 */
#include "blk/blk.h"
#include "kernel/nic.h"
#include "kernel/pci.h"
#include "kernel/port.h"
#include "virtio/device/models.h"
#include "tests/fuzz/support_boot.h"
#include <stdlib.h>
#include <string.h>

#define HELD  64u
#define USERS 8u
#define TURNS 200000u

static struct input {
    const uint8_t *p;
    size_t n;
} in;
static struct vdev dev;
static struct vchain held[HELD];
static unsigned held_queue[HELD], nheld;
static bool probed, ended;
static int probe_rc;
static unsigned users; /* coroutines that use the driver */

extern const struct blk_driver blk_virtio_blk;

static uint8_t byte(void)
{
    if (!in.n)
        return 0;
    in.n--;
    return *in.p++;
}

static uint32_t number(void)
{
    uint32_t v = byte();
    v |= (uint32_t)byte() << 8;
    return v < 0xff00 ? v : v << 16 | byte();
}

static void take(void *to, size_t len)
{
    size_t n = MIN(len, in.n);
    memset(to, 0, len);
    memcpy(to, in.p, n);
    in.p += n;
    in.n -= n;
}

/* ---- The device ------------------------------------------------------------------------------ */

static void work(struct vdev *v, unsigned queue)
{
    while (nheld < HELD && vdev_next(v, queue, &held[nheld]))
        held_queue[nheld++] = queue;
}

static void forget_all(struct vdev *v)
{
    (void)v;
    nheld = 0;
}

static const struct vdev_ops ops = {.work = work, .reset = forget_all};

static void drop_oldest(void)
{
    nheld--;
    memmove(held, held + 1, nheld * sizeof(held[0]));
    memmove(held_queue, held_queue + 1, nheld * sizeof(held_queue[0]));
}

static void scribble(void)
{
    uint8_t bytes[256];
    size_t len = byte();
    len = MIN(len, held[0].in_len);
    take(bytes, len);
    iov_copy_in(vchain_in(&held[0]), 0, bytes, len);
}

static void complete(uint32_t len)
{
    vring_push(&dev.ring[held_queue[0]], held[0].id, len);
    drop_oldest();
}

static void step_device(unsigned op)
{
    unsigned queue = byte() % dev.nqueues;
    struct vring *r = &dev.ring[queue];
    bool open = dev.open[queue]; /* a device that was reset leaves memory alone: its duty */
    if (op < 2 || op == 7) {
        if (!nheld)
            return;
        scribble();
        if (op != 7)
            complete(op ? number() : (uint32_t)held[0].in_len);
    } else if (op == 2 && open) {
        struct vring_id id = {(uint16_t)number(), 1};
        vring_push(r, id, number());
        nheld = 0; /* whatever that completed, the device may not touch it again */
    } else if (op == 3 && open) {
        r->used_idx = (uint16_t)(r->used_idx + number());
        if (!r->packed)
            vring_store(&r->used->idx, r->used_idx);
        nheld = 0;
    } else if (op == 4) {
        dev.config[byte() % VDEV_CONFIG] = byte();
        vdev_config_changed(&dev);
    } else if (op == 5) {
        dev.status |= byte();
        vdev_config_changed(&dev);
    } else if (op == 6 && open) {
        uint16_t before = r->avail_idx;
        r->avail_idx = byte() & 1 ? r->avail_idx : (uint16_t)(r->avail_idx + number());
        vring_notify_me(r, true);
        r->avail_idx = r->packed ? before : vring_load(&r->avail->idx);
    } else if (op == 11 && open && r->packed) {
        take(&r->ring[byte() % r->size], sizeof(*r->ring));
    }
}

/* ---- The users of drivers -------------------------------------------------------------------- */

static struct node node;
static struct user {
    struct co_start start;
    uint8_t what;
    uint64_t off;
    bool busy;
    uint8_t buf[8192];
} user[USERS];

static void co_blk_user(void *arg)
{
    struct user *u = arg;
    struct seg seg[2] = {{u->buf, 1024}, {u->buf + 1100, 3072}};
    struct iov v = {.seg = seg, .len = 4096};
    if (node.limits.max_sg < 2)
        v = iov_one(seg, u->buf, 4096);
    if (u->what % 4 == 0)
        (void)blk_virtio_blk.co_preadv(&node, u->off, v, 0);
    else if (u->what % 4 == 1)
        (void)blk_virtio_blk.co_pwritev(&node, u->off, v, 0);
    else if (u->what % 4 == 2)
        (void)blk_virtio_blk.co_flush(&node);
    else
        (void)blk_virtio_blk.co_pdiscard(&node, u->off, 4096);
    u->busy = false;
    users--;
}

static void use_blk(void)
{
    struct user *u = &user[byte() % USERS];
    if (u->busy || !node.state)
        return;
    u->busy = true;
    u->what = byte();
    u->off = number() * 4096ull;
    users++;
    co_start(&u->start, co_blk_user, u);
}

static void open_node(void)
{
    static uint64_t state[8];
    struct error err = {0};
    struct disk *d = list_entry(disk_list()->prev, struct disk, link);
    struct disk_options o = {.has_index = true, .index = d->index};
    memset(&node, 0, sizeof(node));
    node.state = state;
    list_init(&node.parents);
    list_init(&node.children);
    if (blk_virtio_blk.co_open(&node, &o, &err))
        panic("cannot open: %s", err.msg);
}

static struct nic *nic;
static unsigned sent, given;
static volatile unsigned sum;
static struct nic_rx_buf *kept[4];

static void rx(struct nic *n, struct nic_rx_buf *chain, unsigned flags)
{
    for (struct nic_rx_buf *b = chain; b; b = b->next)
        for (unsigned i = 0; i < b->len; i++)
            sum += b->data[i] + flags;
    struct nic_rx_buf *old = kept[sum % 4];
    kept[sum % 4] = chain;
    if (old)
        n->ops->rx_return(n, old);
}

static void done(void *cookie)
{
    (void)cookie;
    sent++;
}

static void use_nic(void)
{
    static uint8_t frame[2048];
    struct seg seg;
    struct nic_tx_meta m = {.csum = byte() & 1};
    if (nic && !nic->ops->transmit(nic, iov_one(&seg, frame, 60 + byte()), &m, done, NULL))
        given++;
}

static void open_nic(void)
{
    for (unsigned i = nic_count(); i-- && !nic;)
        nic = nic_find(i);
    nic->rx = rx;
    memset(kept, 0, sizeof(kept));
    sent = given = 0;
}

static void co_port_user(void *arg)
{
    struct stream *s = arg;
    uint8_t b[64];
    while (!co_stream_wait(s, 1, STREAM_FOREVER)) {
        size_t n = MIN(s->ops->available(s), sizeof(b));
        s->ops->copy(s, b, n, true);
        if (co_stream_write(s, b, n))
            break;
    }
    co_stream_close(s);
    users--;
}

static void on_port(void *ctx, struct port *p, bool connected)
{
    (void)ctx;
    if (!connected)
        return;
    users++;
    if (co_spawn(co_port_user, p->stream))
        panic("no memory");
}

/* ---- One input ------------------------------------------------------------------------------- */

static void co_probe(void *arg)
{
    (void)arg;
    probe_rc = co_vdev_attach(&dev, "fuzz");
    probed = true;
    if (probe_rc)
        return;
    if (dev.id == VIRTIO_ID_BLOCK)
        open_node();
    if (dev.id == VIRTIO_ID_NET)
        open_nic();
}

static void co_end(void *arg)
{
    (void)arg;
    if (!probe_rc) {
        co_vdev_detach(&dev);
        if (dev.id == VIRTIO_ID_NET && sent != given)
            panic("%u of %u frames were not given back", given - sent, given);
    }
    while (users)
        co_reschedule();
    ended = true;
}

static void turns(unsigned n)
{
    while (n--)
        loop_turn();
}

static void until(const bool *flag, const char *what)
{
    for (unsigned i = 0; !*flag; i++) {
        if (i > TURNS)
            panic("%s did not end", what);
        loop_turn();
    }
}

static void step(void)
{
    unsigned op = byte() % 12;
    if (op == 8 && dev.id == VIRTIO_ID_BLOCK)
        use_blk();
    else if (op == 8 && dev.id == VIRTIO_ID_NET)
        use_nic();
    else if (op == 9)
        while (nheld)
            complete((uint32_t)held[0].in_len);
    else if (op == 10)
        turns(byte() % 16);
    else
        step_device(op);
    if (dev.isr && dev.dev.driver && !dev.dev.broken) {
        dev.dev.events_ns = 0;
        virtio_events(&dev.dev);
    }
    turns(1);
}

static void run_device(uint32_t id)
{
    static struct co_start start;
    static const uint8_t core[] = {VIRTIO_F_INDIRECT_DESC, VIRTIO_F_EVENT_IDX};
    uint8_t some = byte(), features[4];
    take(features, sizeof(features));
    dev = (struct vdev){.ops = &ops, .id = id, .queue_max = (uint16_t)(1u << some % 9)};
    dev.nqueues = id == VIRTIO_ID_CONSOLE ? 12 : 2;
    dev.legacy = features[3] & 2;
    dev.offered = dev.legacy ? 1ull << VIRTIO_F_ANY_LAYOUT : 1ull << VIRTIO_F_VERSION_1;
    dev.offered |= (uint64_t)(features[3] & 1) << VIRTIO_F_RING_PACKED;
    uint32_t own; /* the device's own are below 24 */
    memcpy(&own, features, sizeof(own));
    dev.offered |= own & 0xffffff;
    for (unsigned i = 0; i < ARRAY_LEN(core); i++)
        if (some >> (6 + i) & 1)
            dev.offered |= 1ull << core[i];
    static const uint8_t config[] = {[VIRTIO_ID_NET] = sizeof(struct virtio_net_config),
                                     [VIRTIO_ID_BLOCK] = sizeof(struct virtio_blk_config),
                                     [VIRTIO_ID_CONSOLE] = sizeof(struct virtio_console_config),
                                     [VIRTIO_ID_ENTROPY] = 0};
    take(dev.config, config[id]);
    nheld = 0;
    probed = ended = false;
    node.state = NULL;
    nic = NULL;
    co_start(&start, co_probe, NULL);
    turns(2);
    while (in.n)
        step();
    if (!probed) /* it waits for an answer that will not come */
        virtio_fail(&dev.dev, "the input ends");
    until(&probed, "probing");
    co_start(&start, co_end, NULL);
    until(&ended, "the requests");
}

/* ---- A PCI function -------------------------------------------------------------------------- */

#define BAR_SIZE 4096u
static uint8_t config_space[256];
static bool bus_ready;

static uint32_t cfg_read(uint8_t bus, uint8_t devfn, uint16_t off, unsigned width)
{
    (void)bus, (void)devfn;
    uint32_t v = UINT32_MAX;
    if (bus_ready && range_ok(off, width, sizeof(config_space))) {
        v = 0;
        memcpy(&v, config_space + off, width);
    }
    return v;
}

static void cfg_write(uint8_t bus, uint8_t devfn, uint16_t off, unsigned width, uint32_t v)
{
    (void)bus, (void)devfn, (void)off, (void)width, (void)v;
}

static void *bar_memory[8];
static unsigned bars;
volatile void *mmio_map(uint64_t phys, size_t len)
{
    (void)phys;
    void *p = bars < ARRAY_LEN(bar_memory) ? malloc(len) : NULL;
    if (p) {
        memset(p, 0xff, len);
        bar_memory[bars++] = p;
    }
    return p;
}

static void co_pci(void *arg)
{
    struct pci_dev *p = arg;
    registry_for_each (pci_driver, it)
        if ((*it)->match(p) && !(*it)->probe(p) && p->driver_data) {
            co_virtio_remove(p->driver_data);
            sr_free(p->driver_data);
        }
    ended = true;
}

static void run_pci(void)
{
    static struct co_start start;
    struct pci_dev p = {.vendor = 0x1af4, .device = 0x1040 + VIRTIO_ID_ENTROPY, .name = "00:01.0"};
    uint8_t sizes = byte();
    take(config_space, sizeof(config_space));
    for (unsigned i = 0; i < 6; i++)
        p.bar[i] = (struct pci_bar){.phys = 0x1000, .size = sizes >> i & 1 ? BAR_SIZE << i : 0};
    p.msix_cap = 0x40;
    p.msix_vectors = 1 + sizes / 64;
    bus_ready = true;
    ended = false;
    co_start(&start, co_pci, &p);
    until(&ended, "the PCI probe");
    bus_ready = false;
    while (bars)
        free(bar_memory[--bars]);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static const struct pci_host host = {.cfg_read = cfg_read, .cfg_write = cfg_write};
    (void)argc, (void)argv;
    fuzz_boot(32);
    pci_init(&host);
    if (port_watch("a", on_port, NULL) || port_watch("b", on_port, NULL))
        panic("no memory");
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    static const uint32_t ids[] = {VIRTIO_ID_BLOCK, VIRTIO_ID_NET, VIRTIO_ID_CONSOLE,
                                   VIRTIO_ID_ENTROPY};
    in = (struct input){p, n};
    size_t before = page_free_bytes();
    unsigned kind = byte() % 5;
    if (kind < ARRAY_LEN(ids))
        run_device(ids[kind]);
    else
        run_pci();
    turns(2);
    if (page_free_bytes() < before)
        panic("%zu bytes of pages did not come back", before - page_free_bytes());
    return 0;
}
