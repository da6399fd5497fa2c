/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The device tree, read in two passes over its nodes in the order in which they lie there:
 *
 *     pass 1   who others refer to: memory, /chosen, the interrupt controller, the power key
 *     pass 2   devices
 *
 * A pass keeps one `struct level` per node between the root and where it is: how its children write
 * addresses, and whom their interrupts go to. So no node is looked up by path, handle or parent,
 * which libfdt does by reading the whole tree again, and a handle that leads in a circle leads
 * nowhere. libfdt checks each offset against the header's length, and we that against the length
 * that is really there.
 *
 * A device is found by its `compatible`, which names one row of `bindings`.
 *
 * Missing on purpose: interrupt controllers behind the GIC, dma-ranges (devices see memory where we
 * do), more than one PCI host, I/O space, and whatever has no row.
 */
#include "board/fdt.h"

#include <libfdt.h>
#include <string.h>

#include "kernel/endian.h"
#include "kernel/error.h"
#include "kernel/log.h"

#define MAX_DEPTH 16
#define MAX_PROPS 24  /* that are kept; of more, libfdt is asked */
#define KEY_POWER 116 /* linux,code: input-event-codes.h */

struct level {
    int node;
    unsigned address_cells, size_cells; /* of its children */
    uint32_t interrupt_parent;
    bool enabled;
};

struct property {
    const char *name;
    const void *value;
    int len;
};

struct reader {
    struct machine *m;
    const void *fdt;
    int node; /* the current one; level[depth] is its own */
    int depth;
    struct property property[MAX_PROPS]; /* of the current node */
    unsigned properties;
    bool more; /* than fit */
    struct level level[MAX_DEPTH];
    uint32_t gic, button_gpio; /* handles of the tree */
    unsigned gic_cells, gic_address_cells;
    char stdout_path[64];
    int stdout_node;
};

/* Numbers of a property: a list of big-endian cells, taken from the front. */
struct cells {
    const uint8_t *p;
    size_t left; /* bytes */
};

static const char *node_name(const struct reader *r)
{
    const char *name = fdt_get_name(r->fdt, r->node, NULL);
    return name ? name : "?";
}

static void complain(const struct reader *r, const char *why)
{
    log_line("fdt", "%.40s left out: %s", node_name(r), why);
}

/* libfdt walks a node for each name that it is asked for; this does it once. */
static void load_properties(struct reader *r)
{
    int at;
    r->properties = 0;
    fdt_for_each_property_offset(at, r->fdt, r->node)
    {
        struct property *p = &r->property[r->properties];
        if (r->properties == MAX_PROPS)
            break;
        p->value = fdt_getprop_by_offset(r->fdt, at, &p->name, &p->len);
        r->properties += p->value != NULL;
    }
    r->more = at >= 0;
}

static const void *find_property(const struct reader *r, int node, const char *name, int *len)
{
    for (unsigned i = 0; i < r->properties && node == r->node; i++)
        if (!strcmp(r->property[i].name, name)) {
            *len = r->property[i].len;
            return r->property[i].value;
        }
    return node != r->node || r->more ? fdt_getprop(r->fdt, node, name, len) : NULL;
}

static struct cells node_cells(const struct reader *r, int node, const char *name)
{
    int len = 0;
    const void *p = find_property(r, node, name, &len);
    return (struct cells){p, p ? (size_t)len : 0};
}

static struct cells prop(const struct reader *r, const char *name)
{
    return node_cells(r, r->node, name);
}

/* The next n cells as one number; false when they are not there or no such number exists. */
static bool take(struct cells *c, unsigned n, uint64_t *v)
{
    if (n > 2 || c->left < n * 4u)
        return false;
    for (*v = 0; n; n--, c->p += 4, c->left -= 4) {
        be32 cell;
        memcpy(&cell, c->p, 4);
        *v = *v << 32 | be32_get(cell);
    }
    return true;
}

static bool number(const struct reader *r, int node, const char *name, uint64_t *v)
{
    struct cells c = node_cells(r, node, name);
    return take(&c, c.left == 8 ? 2 : 1, v);
}

/* A property that is one text with its end; NULL otherwise. */
static const char *text(const struct reader *r, int node, const char *name)
{
    struct cells c = node_cells(r, node, name);
    return c.left && memchr(c.p, 0, c.left) ? (const char *)c.p : NULL;
}

static bool has_word(const struct reader *r, const char *name, const char *word)
{
    struct cells c = prop(r, name);
    return c.left && fdt_stringlist_contains((const char *)c.p, (int)c.left, word);
}

/* ---- addresses and interrupts ---- */

/* One step up: from addresses of level d's children to addresses of level d - 1's. */
static bool translate_once(const struct reader *r, int d, struct machine_range *x)
{
    const struct level *bus = &r->level[d], *above = &r->level[d - 1];
    int len;
    const uint8_t *p = fdt_getprop(r->fdt, bus->node, "ranges", &len);
    if (!p)
        return false;
    if (!len)
        return true;
    struct cells c = {p, (size_t)len};
    uint64_t child, parent, size;
    while (take(&c, bus->address_cells, &child) && take(&c, above->address_cells, &parent) &&
           take(&c, bus->size_cells, &size))
        if (x->base >= child && range_ok(x->base - child, x->len, size) &&
            !add_overflow64(x->base - child, parent, &x->base))
            return true;
    return false;
}

/* `x` as the node at level `depth` + 1 writes it becomes what the processor sees. */
static bool translate(const struct reader *r, int depth, struct machine_range *x)
{
    for (int d = depth; d > 0; d--)
        if (!translate_once(r, d, x))
            return false;
    return x->len <= UINT64_MAX - x->base;
}

/* The nth entry of `reg`. */
static bool reg(const struct reader *r, unsigned n, struct machine_range *x)
{
    if (!r->depth)
        return false;
    const struct level *bus = &r->level[r->depth - 1];
    struct cells c = prop(r, "reg");
    do {
        if (!take(&c, bus->address_cells, &x->base) || !take(&c, bus->size_cells, &x->len))
            return false;
    } while (n--);
    return x->len && translate(r, r->depth - 1, x);
}

static bool reg_base(const struct reader *r, unsigned n, uint64_t *base)
{
    struct machine_range x;
    if (!reg(r, n, &x))
        return false;
    *base = x.base;
    return true;
}

struct line {
    unsigned intid;
    bool level, low;
};

/* bindings/interrupt-controller/arm,gic.yaml: kind, number, flags; a fourth cell is about PPIs. */
static bool take_line(const struct reader *r, struct cells *c, struct line *out)
{
    uint64_t kind, number, flags, more;
    if (!take(c, 1, &kind) || !take(c, 1, &number) || !take(c, 1, &flags) ||
        !take(c, r->gic_cells - 3, &more) || kind > 1 || number >= (kind ? 16 : 988))
        return false;
    out->intid = (unsigned)number + (kind ? 16 : 32);
    out->level = flags & 12;
    out->low = flags & 10;
    return true;
}

/* The nth interrupt of the node. */
static bool interrupt(const struct reader *r, unsigned n, struct line *out)
{
    struct cells c = prop(r, "interrupts");
    if (!r->gic || r->level[r->depth].interrupt_parent != r->gic)
        return false;
    do {
        if (!take_line(r, &c, out))
            return false;
    } while (n--);
    return true;
}

/* ---- pass 1 ---- */

static void add_range(struct machine_range *list, unsigned *count, struct machine_range x)
{
    if (*count < MACHINE_MAX_RANGES)
        list[(*count)++] = x;
    else
        log_line("fdt", "memory at 0x%llx left out: too many ranges", (unsigned long long)x.base);
}

static void read_memory(struct reader *r)
{
    struct machine_range x;
    for (unsigned i = 0; reg(r, i, &x); i++)
        add_range(r->m->ram, &r->m->ram_count, x);
}

/* 3.5.4: children of /reserved-memory; those without an address are wishes, which we do not grant. */
static void read_reserved_node(struct reader *r)
{
    struct machine_range x;
    for (unsigned i = 0; reg(r, i, &x); i++)
        add_range(r->m->reserved, &r->m->reserved_count, x);
}

/* 5.3: the list in front of the structure. */
static void read_reserved_list(struct reader *r)
{
    uint64_t base, len;
    int n = fdt_num_mem_rsv(r->fdt);
    for (int i = 0; i < n && !fdt_get_mem_rsv(r->fdt, i, &base, &len); i++)
        if (len && len <= UINT64_MAX - base)
            add_range(r->m->reserved, &r->m->reserved_count, (struct machine_range){base, len});
}

/* 3.6: a path or an alias, perhaps with options behind a colon. The alias is resolved here, once:
 * libfdt would follow one that names itself for ever. */
static void read_stdout_path(struct reader *r)
{
    const char *path = text(r, r->node, "stdout-path");
    size_t n = path ? strcspn(path, ":") : 0;
    if (!n || n >= sizeof(r->stdout_path))
        return;
    memcpy(r->stdout_path, path, n);
    r->stdout_path[n] = 0;
}

static void find_stdout(struct reader *r)
{
    const char *path = r->stdout_path;
    if (*path && *path != '/')
        path = fdt_get_alias(r->fdt, path);
    r->stdout_node = path && *path == '/' ? fdt_path_offset(r->fdt, path) : -1;
}

static void read_chosen(struct reader *r)
{
    struct machine *m = r->m;
    uint64_t start, end;
    m->bootargs = text(r, r->node, "bootargs");
    if (number(r, r->node, "linux,initrd-start", &start) &&
        number(r, r->node, "linux,initrd-end", &end) && end > start)
        m->initrd = (struct machine_range){start, end - start};
    struct cells seed = prop(r, "rng-seed");
    m->seed_len = (unsigned)MIN(seed.left, sizeof(m->seed));
    if (m->seed_len)
        memcpy(m->seed, seed.p, m->seed_len);
    read_stdout_path(r);
}

static bool gic_common(struct reader *r, unsigned version)
{
    uint64_t handle, cells;
    if (r->m->gic.version) {
        complain(r, "a second interrupt controller");
        return false;
    }
    if (!reg_base(r, 0, &r->m->gic.dist) || !number(r, r->node, "phandle", &handle) ||
        !number(r, r->node, "#interrupt-cells", &cells) || cells < 3 || cells > 4) {
        complain(r, "bad interrupt controller");
        return false;
    }
    r->m->gic.version = version;
    r->gic = (uint32_t)handle;
    r->gic_cells = (unsigned)cells;
    if (prop(r, "#address-cells").left) /* 2.4.3: for interrupt maps its default is 0 */
        r->gic_address_cells = r->level[r->depth].address_cells;
    return true;
}

static void read_gic2(struct reader *r)
{
    if (gic_common(r, 2) && !reg_base(r, 1, &r->m->gic.cpu)) {
        complain(r, "no CPU interface");
        r->m->gic.version = 0;
    }
}

/* bindings/interrupt-controller/arm,gic-v3.yaml: distributor, then the redistributors' regions. */
static void read_gic3(struct reader *r)
{
    struct gic_info *g = &r->m->gic;
    struct machine_range x;
    uint64_t regions = 1;
    if (!gic_common(r, 3))
        return;
    number(r, r->node, "#redistributor-regions", &regions);
    regions = MIN(regions, (uint64_t)GIC_MAX_REDISTS);
    while (g->redist_count < regions && reg(r, 1 + g->redist_count, &x))
        g->redist[g->redist_count++] = (struct phys_range){x.base, x.base + x.len};
    if (!g->redist_count) {
        complain(r, "no redistributors");
        g->version = 0;
    }
}

static void read_v2m(struct reader *r)
{
    if (!reg_base(r, 0, &r->m->gic.v2m))
        complain(r, "bad address");
}

static void read_its(struct reader *r)
{
    if (!reg_base(r, 0, &r->m->gic.its))
        complain(r, "bad address");
}

static void read_psci(struct reader *r)
{
    const char *method = text(r, r->node, "method");
    if (method && !strcmp(method, "smc"))
        r->m->psci = PSCI_CONDUIT_SMC;
    else if (method && !strcmp(method, "hvc"))
        r->m->psci = PSCI_CONDUIT_HVC;
    else
        complain(r, "no such method");
}

static void read_keys(struct reader *r)
{
    int key;
    fdt_for_each_subnode(key, r->fdt, r->node)
    {
        struct cells gpios = node_cells(r, key, "gpios");
        uint64_t code, handle, line;
        if (number(r, key, "linux,code", &code) && code == KEY_POWER && take(&gpios, 1, &handle) &&
            take(&gpios, 1, &line) && line < 8) {
            r->button_gpio = (uint32_t)handle;
            r->m->button.line = (unsigned)line;
        }
    }
}

/* ---- pass 2 ---- */

static void read_timer(struct reader *r)
{
    struct line virtual;
    if (interrupt(r, 2, &virtual)) /* secure, non-secure, virtual, hypervisor */
        r->m->timer_irq = virtual.intid;
    else
        complain(r, "no interrupt for the virtual timer");
}

static void read_pl011(struct reader *r)
{
    uint64_t base;
    if (!reg_base(r, 0, &base))
        complain(r, "bad address");
    else if (!r->m->pl011 || r->node == r->stdout_node)
        r->m->pl011 = base;
}

static void read_pl061(struct reader *r)
{
    uint64_t handle;
    if (!number(r, r->node, "phandle", &handle) || !r->button_gpio || handle != r->button_gpio)
        return;
    if (!reg_base(r, 0, &r->m->button.pl061))
        complain(r, "bad address");
}

static void read_fw_cfg(struct reader *r)
{
    if (!reg_base(r, 0, &r->m->fw_cfg))
        complain(r, "bad address");
}

static void add_mmio(struct reader *r, const char *compatible)
{
    struct machine_range x;
    struct line line;
    if (!reg(r, 0, &x) || !interrupt(r, 0, &line))
        complain(r, "bad address or interrupt");
    else if (r->m->mmio_count == MACHINE_MAX_MMIO)
        complain(r, "too many devices");
    else
        r->m->mmio[r->m->mmio_count++] = (struct mmio_dev){.compatible = compatible,
                                                           .phys = x.base,
                                                           .len = (size_t)x.len,
                                                           .gsi = line.intid,
                                                           .level = line.level,
                                                           .low = line.low};
}

static void read_virtio(struct reader *r)
{
    add_mmio(r, MMIO_VIRTIO);
}

static void read_ahci(struct reader *r)
{
    add_mmio(r, MMIO_AHCI);
}

/* IEEE 1275 PCI binding, 2.2.1.1: the first of three cells tells the space. */
static void read_windows(struct reader *r)
{
    struct machine_pci *pci = &r->m->pci;
    struct cells c = prop(r, "ranges");
    uint64_t space, at;
    struct machine_range x;
    while (take(&c, 1, &space) && take(&c, 2, &at) &&
           take(&c, r->level[r->depth - 1].address_cells, &x.base) && take(&c, 2, &x.len)) {
        unsigned code = space >> 24 & 3;
        if (code < 2 || !x.len || !translate(r, r->depth - 1, &x) || x.base != at)
            continue;
        struct machine_range *w = range_ok(x.base, x.len, 1ull << 32) ? &pci->mmio32 : &pci->mmio64;
        if (x.len > w->len)
            *w = x;
    }
}

/* 2.4.3: function, pin, handle, the controller's address, interrupt. The map is taken when it is
 * what every bridge does: four lines in a row, turned by the device's number. */
static void read_interrupt_map(struct reader *r)
{
    struct cells c = prop(r, "interrupt-map");
    uint64_t function, none, pin, handle;
    struct line line;
    unsigned first = 0;
    while (c.left) {
        if (!take(&c, 1, &function) || !take(&c, 2, &none) || !take(&c, 1, &pin) ||
            !take(&c, 1, &handle) || handle != r->gic || !take(&c, r->gic_address_cells, &none) ||
            !take_line(r, &c, &line) || !line.level || line.low)
            return;
        unsigned turned = (unsigned)(pin - 1 + (function >> 11 & 31)) % 4;
        if (!first && !turned)
            first = line.intid;
        if (pin - 1 > 3 || line.intid != first + turned)
            return;
    }
    r->m->pci.intx = first;
}

static void read_pci(struct reader *r)
{
    struct machine_pci *pci = &r->m->pci;
    struct machine_range ecam;
    uint64_t first = 0, last = 255;
    struct cells c = prop(r, "bus-range");
    if (c.left && (!take(&c, 1, &first) || !take(&c, 1, &last)))
        last = UINT64_MAX;
    if (pci->ecam || !reg(r, 0, &ecam) || first > last || last > 255 || ecam.len < 1u << 20) {
        complain(r, pci->ecam ? "a second PCI host" : "bad address or bus range");
        return;
    }
    pci->ecam = ecam.base;
    pci->first_bus = (uint8_t)first;
    pci->last_bus = (uint8_t)(first + MIN(last - first, (ecam.len >> 20) - 1));
    read_windows(r);
    read_interrupt_map(r);
}

/* ---- the walk ---- */

static const struct binding {
    const char *compatible;
    unsigned pass;
    void (*read)(struct reader *r);
} bindings[] = {
    {"arm,gic-400", 1, read_gic2},        {"arm,cortex-a15-gic", 1, read_gic2},
    {"arm,gic-v3", 1, read_gic3},         {"arm,gic-v2m-frame", 1, read_v2m},
    {"arm,gic-v3-its", 1, read_its},      {"arm,psci-0.2", 1, read_psci},
    {"arm,psci-1.0", 1, read_psci},       {"gpio-keys", 1, read_keys},
    {"arm,armv8-timer", 2, read_timer},   {"arm,armv7-timer", 2, read_timer},
    {"arm,pl011", 2, read_pl011},         {"arm,pl061", 2, read_pl061},
    {"qemu,fw-cfg-mmio", 2, read_fw_cfg}, {"pci-host-ecam-generic", 2, read_pci},
    {"virtio,mmio", 2, read_virtio},      {"generic-ahci", 2, read_ahci},
};

static void read_by_binding(struct reader *r, unsigned pass)
{
    struct cells c = prop(r, "compatible");
    for (unsigned i = 0; c.left && i < ARRAY_LEN(bindings); i++)
        if (bindings[i].pass == pass &&
            fdt_stringlist_contains((const char *)c.p, (int)c.left, bindings[i].compatible)) {
            bindings[i].read(r);
            return;
        }
}

/* What is known by its name or by its place. */
static bool read_by_place(struct reader *r)
{
    const char *name = node_name(r);
    if (r->depth == 0)
        r->m->compatible = text(r, r->node, "compatible");
    else if (r->depth == 1 && !strcmp(name, "chosen"))
        read_chosen(r);
    else if (has_word(r, "device_type", "memory"))
        read_memory(r);
    else if (has_word(r, "device_type", "cpu") || (r->depth == 2 && !strncmp(name, "cpu@", 4)))
        r->m->cpus++;
    else if (r->depth == 2 &&
             !strcmp(fdt_get_name(r->fdt, r->level[1].node, NULL) ?: "", "reserved-memory"))
        read_reserved_node(r);
    else
        return false;
    return true;
}

/* 2.3.5: cells say how children are written; their default is 2 and 1. */
static void enter(struct reader *r)
{
    struct level *l = &r->level[r->depth];
    uint64_t address = 2, size = 1, parent = 0;
    load_properties(r);
    const char *status = text(r, r->node, "status");
    if (r->depth)
        parent = l[-1].interrupt_parent;
    number(r, r->node, "#address-cells", &address);
    number(r, r->node, "#size-cells", &size);
    number(r, r->node, "interrupt-parent", &parent);
    *l = (struct level){
        .node = r->node,
        .address_cells = (unsigned)MIN(address, (uint64_t)UINT32_MAX),
        .size_cells = (unsigned)MIN(size, (uint64_t)UINT32_MAX),
        .interrupt_parent = (uint32_t)parent,
        .enabled = !status || !strcmp(status, "okay") || !strcmp(status, "ok"),
    };
    if (r->depth && !l[-1].enabled)
        l->enabled = false;
}

static void walk(struct reader *r, unsigned pass)
{
    int depth = -1;
    r->node = fdt_next_node(r->fdt, -1, &depth);
    for (; r->node >= 0 && depth >= 0; r->node = fdt_next_node(r->fdt, r->node, &depth)) {
        if (depth >= MAX_DEPTH)
            continue;
        r->depth = depth;
        enter(r);
        if (r->level[depth].enabled && (pass == 2 || !read_by_place(r)))
            read_by_binding(r, pass);
    }
    if (pass == 1 && r->node < 0)
        log_line("fdt", "the tree is damaged (%s): what follows is left out",
                 fdt_strerror(r->node));
}

int fdt_read(struct machine *m, const void *fdt, size_t len)
{
    static struct reader r; /* too large for the stack; start-up only */
    r = (struct reader){.m = m, .fdt = fdt, .stdout_node = -1};
    memset(m, 0, sizeof(*m));
    int rc = len < sizeof(struct fdt_header) ? -FDT_ERR_TRUNCATED : fdt_check_header(fdt);
    if (!rc && fdt_totalsize(fdt) > len)
        rc = -FDT_ERR_TRUNCATED;
    if (!rc && (fdt_off_mem_rsvmap(fdt) % 8 || fdt_off_dt_struct(fdt) % 4)) /* 5.6 */
        rc = -FDT_ERR_ALIGNMENT;
    if (rc) {
        log_line("fdt", "no device tree: %s", fdt_strerror(rc));
        return SR_EINVAL;
    }
    uint32_t structure = fdt_off_dt_struct(fdt) + fdt_size_dt_struct(fdt);
    uint32_t strings = fdt_off_dt_strings(fdt) + fdt_size_dt_strings(fdt);
    m->tree_len = fdt_version(fdt) < 17 ? fdt_totalsize(fdt) : MAX(structure, strings);
    read_reserved_list(&r);
    walk(&r, 1);
    find_stdout(&r);
    walk(&r, 2);
    return 0;
}
