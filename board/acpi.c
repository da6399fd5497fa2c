/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * ACPI tables: RSDP -> XSDT or RSDT -> MADT, MCFG, FADT -> DSDT, SSDTs, and of Arm GTDT and SPCR.
 *
 * There is no AML interpreter. Fixed tables answer nearly everything; of the DSDT we want few facts
 * that compilers and QEMU emit as literal bytes, so one pass over the bytes finds them:
 *
 *     08 "_S5_" 12 ...                     sleep types for power-off
 *     08 "_HID" 0d "LNRO0005"              a virtio-mmio device: its memory and interrupt follow
 *     08 "_HID" 0d "QEMU0002"              fw_cfg: its memory follows, on Arm
 *     08 "_HID" 0d "ACPI0013"              the generic event device: its interrupt follows
 *     5b 80 "EREG" 00 address              ... and the register that tells events
 *     87 / 8a address space descriptors    memory windows of host bridges
 *
 * A descriptor belongs to the last _HID seen, within the bytes that one device can have. A false
 * match could at worst describe a device that is not there, and drivers check what they find.
 *
 * Bounds: every table is mapped with the length its header claims, capped at TABLE_MAX, and read
 * by offset in subtraction form. Tables refer one level down only and the root list is bounded, so
 * circular references end; a root list that lists itself is skipped by its signature.
 */
#include "board/acpi.h"
#include "board/acpi_spec.h"
#include "kernel/error.h"
#include "kernel/log.h"
#include <string.h>

#define TABLE_MAX    (1u << 20)
#define ROOT_MAX     64u
#define DEVICE_REACH 384u /* bytes of AML after _HID in which a device's resources are looked for */

/* The DSDT is most of the bytes we ever look at here, so eight are added at a time: four sums of 16
 * bits, which have room for 128 words. */
static bool sum_is_zero(const uint8_t *p, size_t len)
{
    const uint64_t even = 0x00ff00ff00ff00ff;
    uint8_t sum = 0;
    while (len >= 8) {
        uint64_t lanes = 0;
        for (unsigned n = 0; n < 128 && len >= 8; n++, p += 8, len -= 8) {
            uint64_t w;
            memcpy(&w, p, 8);
            lanes += (w & even) + (w >> 8 & even);
        }
        sum = (uint8_t)(sum + lanes + (lanes >> 16) + (lanes >> 32) + (lanes >> 48));
    }
    while (len--)
        sum = (uint8_t)(sum + *p++);
    return sum == 0;
}

static const struct acpi_header *bad_table(uint64_t phys, const char *why)
{
    log_line("acpi", "table at 0x%llx left out: %s", (unsigned long long)phys, why);
    return NULL;
}

/* The whole table at phys, checked; NULL when it is not one. */
static const struct acpi_header *table_map(const struct acpi_reader *r, uint64_t phys)
{
    const struct acpi_header *h = phys ? r->map(r->ctx, phys, sizeof(*h)) : NULL;
    if (!h)
        return bad_table(phys, "not in memory");
    uint32_t len = le32_get(h->length);
    if (len < sizeof(*h) || len > TABLE_MAX)
        return bad_table(phys, "bad length");
    h = r->map(r->ctx, phys, len);
    if (!h)
        return bad_table(phys, "its end is not in memory");
    if (!sum_is_zero((const uint8_t *)h, len))
        return bad_table(phys, "bad checksum");
    return h;
}

static bool table_is(const struct acpi_header *h, const char *signature)
{
    return !memcmp(h->signature, signature, sizeof(h->signature));
}

static void parse_lapic(struct acpi_info *info, uint32_t id, uint32_t flags)
{
    if (!(flags & 1))
        return;
    if (info->cpus < ACPI_MAX_CPUS)
        info->cpu_id[info->cpus] = id;
    info->cpus++;
}

static void parse_override(struct acpi_info *info, const struct madt_override *o)
{
    unsigned flags = le16_get(o->flags);
    if (o->irq >= ARRAY_LEN(info->isa_irq))
        return;
    info->isa_irq[o->irq].set = true;
    info->isa_irq[o->irq].gsi = le32_get(o->gsi);
    info->isa_irq[o->irq].low = (flags & 3) == 3;
    info->isa_irq[o->irq].level = (flags >> 2 & 3) == 3;
}

/* Redistributors are told as regions, or one by one with the processors. */
static void add_redist(struct acpi_info *info, uint64_t base, uint64_t len)
{
    if (!base || len > UINT64_MAX - base)
        return;
    for (unsigned i = 0; i < info->arm.redists; i++) {
        struct acpi_window *w = &info->arm.redist[i];
        if (base >= w->base && range_ok(base - w->base, len, w->size))
            return;
        if (base == w->base + w->size && len <= UINT64_MAX - base) {
            w->size += len;
            return;
        }
    }
    if (info->arm.redists < ACPI_MAX_REDISTS)
        info->arm.redist[info->arm.redists++] = (struct acpi_window){base, len};
}

#define GICR_FRAMES 0x20000u /* of one processor, IHI 0069, 12.10 */

static void parse_gicc(struct acpi_info *info, const uint8_t *p, size_t len)
{
    struct madt_gicc c;
    memset(&c, 0, sizeof(c));
    memcpy(&c, p, MIN(len, sizeof(c)));
    parse_lapic(info, le32_get(c.uid), le32_get(c.flags));
    if (!info->arm.cpu)
        info->arm.cpu = le64_get(c.base);
    if (len >= sizeof(c) && le32_get(c.flags) & 1)
        add_redist(info, le64_get(c.gicr), GICR_FRAMES);
}

static void parse_gic_entry(struct acpi_info *info, const uint8_t *p, size_t len)
{
    if (p[0] == MADT_GICC && len >= MADT_GICC_OLD_LEN) {
        parse_gicc(info, p, len);
    } else if (p[0] == MADT_GICD && len >= sizeof(struct madt_gicd)) {
        const struct madt_gicd *d = (const void *)p;
        info->arm.gic = d->version ? d->version : 2; /* 0: find out; old tables of old machines */
        info->arm.dist = le64_get(d->base);
    } else if (p[0] == MADT_GIC_MSI && len >= sizeof(struct madt_gic_msi)) {
        info->arm.v2m = le64_get(((const struct madt_gic_msi *)(const void *)p)->base);
    } else if (p[0] == MADT_GICR && len >= sizeof(struct madt_gicr)) {
        const struct madt_gicr *r = (const void *)p;
        add_redist(info, le64_get(r->base), le32_get(r->length));
    } else if (p[0] == MADT_GIC_ITS && len >= sizeof(struct madt_gic_its) && !info->arm.its) {
        info->arm.its = le64_get(((const struct madt_gic_its *)(const void *)p)->base);
    }
}

static void parse_madt_entry(struct acpi_info *info, const uint8_t *p, size_t len)
{
    if (p[0] == MADT_LAPIC && len >= sizeof(struct madt_lapic)) {
        const struct madt_lapic *l = (const void *)p;
        parse_lapic(info, l->id, le32_get(l->flags));
    } else if (p[0] == MADT_X2APIC && len >= sizeof(struct madt_x2apic)) {
        const struct madt_x2apic *l = (const void *)p;
        parse_lapic(info, le32_get(l->id), le32_get(l->flags));
    } else if (p[0] == MADT_IOAPIC && len >= sizeof(struct madt_ioapic)) {
        const struct madt_ioapic *a = (const void *)p;
        if (info->ioapics == ACPI_MAX_IOAPICS)
            return;
        info->ioapic[info->ioapics].base = le32_get(a->address);
        info->ioapic[info->ioapics++].gsi_base = le32_get(a->gsi_base);
    } else if (p[0] == MADT_OVERRIDE && len >= sizeof(struct madt_override)) {
        parse_override(info, (const void *)p);
    } else {
        parse_gic_entry(info, p, len);
    }
}

static void parse_madt(struct acpi_info *info, const struct acpi_header *h, size_t len)
{
    const uint8_t *p = (const uint8_t *)h;
    size_t off = sizeof(struct acpi_madt);
    while (off < len && len - off >= 2) {
        size_t n = p[off + 1];
        if (n < 2 || n > len - off) {
            log_line("acpi", "MADT: bad entry at %zu", off);
            return;
        }
        parse_madt_entry(info, p + off, n);
        off += n;
    }
}

static void parse_mcfg(struct acpi_info *info, const struct acpi_header *h, size_t len)
{
    const uint8_t *p = (const uint8_t *)h;
    const struct acpi_mcfg_entry *e;
    for (size_t off = ACPI_MCFG_ENTRIES; off < len && len - off >= sizeof(*e); off += sizeof(*e)) {
        e = (const void *)(p + off);
        if (le16_get(e->segment) || e->last_bus < e->first_bus)
            continue;
        info->ecam.base = le64_get(e->base);
        info->ecam.size = ((uint64_t)e->last_bus - e->first_bus + 1) << 20;
        info->ecam_first = e->first_bus;
        info->ecam_last = e->last_bus;
        return;
    }
}

static struct acpi_register register_of(const struct acpi_gas_spec *g)
{
    struct acpi_register r = {g->space == ACPI_SPACE_IO, g->width, le64_get(g->address)};
    if (g->space > ACPI_SPACE_IO)
        r.address = 0;
    return r;
}

/* A port of the old 32-bit fields, else of the extended ones. */
static uint16_t port_of(le32 old, const struct acpi_gas_spec *x)
{
    struct acpi_register r = register_of(x);
    uint64_t port = le32_get(old) ? le32_get(old) : r.io ? r.address : 0;
    return port <= UINT16_MAX ? (uint16_t)port : 0;
}

/* Returns the DSDT's address. Older tables are shorter: what is missing reads as zero. */
static uint64_t parse_fadt(struct acpi_info *info, const struct acpi_header *h, size_t len)
{
    struct acpi_fadt f;
    memset(&f, 0, sizeof(f));
    memcpy(&f, h, MIN(len, sizeof(f)));
    info->fadt = true;
    info->hw_reduced = le32_get(f.flags) & ACPI_FADT_HW_REDUCED;
    info->arm.psci = le16_get(f.arm_flags) & ACPI_ARM_PSCI;
    info->arm.psci_hvc = le16_get(f.arm_flags) & ACPI_ARM_PSCI_HVC;
    if (le32_get(f.flags) & ACPI_FADT_RESET_SUP) {
        info->reset = register_of(&f.reset);
        info->reset_value = f.reset_value;
    }
    if (info->hw_reduced) {
        info->sleep_control = register_of(&f.sleep_control);
    } else {
        info->sci = le16_get(f.sci_int);
        info->smi_cmd = (uint16_t)le32_get(f.smi_cmd);
        info->acpi_enable = f.acpi_enable;
        info->pm1a_evt = port_of(f.pm1a_evt, &f.x_pm1a_evt);
        info->pm1_evt_len = f.pm1_evt_len;
        info->pm1a_cnt = port_of(f.pm1a_cnt, &f.x_pm1a_cnt);
        info->pm1b_cnt = port_of(f.pm1b_cnt, &f.x_pm1b_cnt);
        info->pm_timer = port_of(f.pm_tmr, &f.x_pm_tmr);
    }
    return le64_get(f.x_dsdt) ? le64_get(f.x_dsdt) : le32_get(f.dsdt);
}

static void parse_spcr(struct acpi_info *info, const struct acpi_header *h, size_t len)
{
    const struct acpi_spcr *s = (const void *)h;
    if (len < sizeof(*s) || s->base.space != ACPI_SPACE_MEMORY)
        return;
    if (s->type == SPCR_PL011 || s->type == SPCR_SBSA_32 || s->type == SPCR_SBSA)
        info->arm.pl011 = le64_get(s->base.address);
}

static void parse_gtdt(struct acpi_info *info, const struct acpi_header *h, size_t len)
{
    const struct acpi_gtdt *g = (const void *)h;
    if (len >= sizeof(*g) && le32_get(g->virtual_gsi) >= 16 && le32_get(g->virtual_gsi) < 32)
        info->arm.timer_gsi = le32_get(g->virtual_gsi);
}

static void parse_aml_table(struct acpi_info *info, const struct acpi_header *h)
{
    acpi_scan_aml(info, (const uint8_t *)h + sizeof(*h), le32_get(h->length) - sizeof(*h));
}

static void parse_table(struct acpi_info *info, const struct acpi_reader *r, uint64_t phys)
{
    const struct acpi_header *h = table_map(r, phys);
    if (!h)
        return;
    size_t len = le32_get(h->length);
    if (table_is(h, "APIC")) {
        parse_madt(info, h, len);
    } else if (table_is(h, "MCFG")) {
        parse_mcfg(info, h, len);
    } else if (table_is(h, "SPCR")) {
        parse_spcr(info, h, len);
    } else if (table_is(h, "GTDT")) {
        parse_gtdt(info, h, len);
    } else if (table_is(h, "SSDT")) {
        parse_aml_table(info, h);
    } else if (table_is(h, "FACP") && !info->fadt) {
        const struct acpi_header *dsdt = table_map(r, parse_fadt(info, h, len));
        if (dsdt && table_is(dsdt, "DSDT"))
            parse_aml_table(info, dsdt);
    }
}

/* The physical address of the root list; 0 when the pointer to it is no good. */
static uint64_t find_root(const struct acpi_reader *r, uint64_t phys, bool *wide)
{
    const struct acpi_rsdp *p = phys ? r->map(r->ctx, phys, ACPI_RSDP_V1_LEN) : NULL;
    if (!p || memcmp(p->signature, "RSD PTR ", 8) ||
        !sum_is_zero((const uint8_t *)p, ACPI_RSDP_V1_LEN)) {
        log_line("acpi", "no root pointer at 0x%llx", (unsigned long long)phys);
        return 0;
    }
    *wide = false;
    if (p->revision >= 2) {
        const struct acpi_rsdp *p2 = r->map(r->ctx, phys, sizeof(*p));
        if (p2 && le64_get(p2->xsdt) && sum_is_zero((const uint8_t *)p2, sizeof(*p2))) {
            *wide = true;
            return le64_get(p2->xsdt);
        }
    }
    return le32_get(p->rsdt);
}

int acpi_parse(struct acpi_info *info, uint64_t rsdp, const struct acpi_reader *reader)
{
    bool wide = false;
    memset(info, 0, sizeof(*info));
    uint64_t root = find_root(reader, rsdp, &wide);
    const struct acpi_header *h = root ? table_map(reader, root) : NULL;
    if (!h)
        return SR_EINVAL;
    if (!table_is(h, wide ? "XSDT" : "RSDT")) {
        bad_table(root, "not a root list");
        return SR_EINVAL;
    }
    const uint8_t *p = (const uint8_t *)h;
    size_t len = le32_get(h->length), step = wide ? 8 : 4;
    unsigned n = 0;
    for (size_t off = sizeof(*h); off < len && len - off >= step && n < ROOT_MAX;
         off += step, n++) {
        le64 entry = {{0}};
        memcpy(&entry, p + off, step);
        parse_table(info, reader, le64_get(entry));
    }
    return 0;
}

/* ---- the byte scan ---- */

struct aml {
    const uint8_t *p;
    size_t len;
};

static bool aml_match(const struct aml *a, size_t off, const char *bytes, size_t n)
{
    return range_ok(off, n, a->len) && !memcmp(a->p + off, bytes, n);
}

/* An integer object at off; moves off behind it. */
static bool aml_integer(const struct aml *a, size_t *off, uint64_t *v)
{
    if (*off >= a->len)
        return false;
    uint8_t op = a->p[*off];
    size_t n = op == AML_BYTE    ? 1
               : op == AML_WORD  ? 2
               : op == AML_DWORD ? 4
               : op == AML_QWORD ? 8
                                 : 0;
    if (!n && op != AML_ZERO && op != AML_ONE)
        return false;
    if (!range_ok(*off + 1, n, a->len))
        return false;
    le64 value = {{op == AML_ONE}};
    if (n)
        memcpy(&value, a->p + *off + 1, n);
    *v = le64_get(value);
    *off += 1 + n;
    return true;
}

static void scan_s5(struct acpi_info *info, const struct aml *a, size_t off)
{
    uint64_t v;
    if (off >= a->len || a->p[off] != AML_PACKAGE || a->len - off < 2)
        return;
    off += 2u + (a->p[off + 1] >> 6); /* the length: 1 to 4 bytes; then the element count */
    off++;
    if (!aml_integer(a, &off, &v))
        return;
    info->s5 = true;
    info->s5_a = v & 7;
    info->s5_b = aml_integer(a, &off, &v) ? v & 7 : info->s5_a;
}

/* 6.4.3.4 and 6.4.3.6: fixed memory and interrupt of the device whose _HID came last. */
static void scan_device_memory(struct acpi_device *d, const struct aml *a, size_t off)
{
    le32 base, len;
    if (!aml_match(a, off, "\x86\x09\x00", 3) || !range_ok(off, 12, a->len) || d->base)
        return;
    memcpy(&base, a->p + off + 4, 4);
    memcpy(&len, a->p + off + 8, 4);
    d->base = le32_get(base);
    d->len = le32_get(len);
}

static void scan_device_interrupt(struct acpi_device *d, const struct aml *a, size_t off)
{
    le32 gsi;
    if (!range_ok(off, 9, a->len) || a->p[off + 2] || a->p[off + 1] < 6 || a->p[off + 4] != 1 ||
        d->gsi)
        return;
    memcpy(&gsi, a->p + off + 5, 4);
    d->gsi = le32_get(gsi);
    d->level = !(a->p[off + 3] & 2);
    d->low = a->p[off + 3] & 4;
}

/* 6.4.3.5: type 0 is memory; granularity, minimum, maximum, translation, length follow. */
static void scan_window(struct acpi_info *info, const struct aml *a, size_t off, size_t width)
{
    uint64_t field[5] = {0};
    if (!range_ok(off, 6 + 5 * width, a->len) || a->p[off + 3])
        return;
    for (unsigned i = 0; i < 5; i++) {
        le64 v = {{0}};
        memcpy(&v, a->p + off + 6 + i * width, width);
        field[i] = le64_get(v);
    }
    uint64_t base = field[1], size = field[4];
    if (!size || size > UINT64_MAX - base || (base < 1u << 20) || field[3])
        return;
    struct acpi_window *w = base + size <= 1ull << 32 ? &info->mmio32 : &info->mmio64;
    if (size > w->size)
        *w = (struct acpi_window){base, size};
}

static struct acpi_device *scan_hid(struct acpi_info *info, const struct aml *a, size_t off)
{
    if (aml_match(a, off,
                  "\x0d"
                  "LNRO0005",
                  10) &&
        info->virtio_count < ACPI_MAX_MMIO)
        return &info->virtio[info->virtio_count++];
    if (aml_match(a, off,
                  "\x0d"
                  "ACPI0013",
                  10))
        return &info->ged;
    if (aml_match(a, off,
                  "\x0d"
                  "QEMU0002",
                  10))
        return &info->arm.fw_cfg;
    return NULL;
}

/* A named object at off (behind the name operator). */
static void scan_name(struct acpi_info *info, const struct aml *a, size_t off,
                      struct acpi_device **device, size_t *device_end)
{
    if (aml_match(a, off, "_S5_", 4)) {
        scan_s5(info, a, off + 4);
    } else if (aml_match(a, off, "_HID", 4)) {
        *device = scan_hid(info, a, off + 4);
        *device_end = off + DEVICE_REACH;
    }
}

/* PCI Firmware 3.0, 4.1.3: a host bridge without an MCFG entry says by _CBA where its ECAM is, for
 * all buses. A method's name follows its length of 1 to 4 bytes; ours does nothing but return. */
static void scan_method(struct acpi_info *info, const struct aml *a, size_t off)
{
    uint64_t v;
    if (off >= a->len || info->ecam.base)
        return;
    off += 1u + (a->p[off] >> 6);
    if (!aml_match(a, off, "_CBA", 4) || !range_ok(off, 6, a->len) || a->p[off + 5] != AML_RETURN)
        return;
    off += 6;
    if (!aml_integer(a, &off, &v) || !v || !is_aligned(v, 1u << 28))
        return;
    info->ecam = (struct acpi_window){v, 256u << 20};
    info->ecam_first = 0;
    info->ecam_last = 255;
}

static void scan_region(struct acpi_info *info, const struct aml *a, size_t off)
{
    uint64_t v;
    if (!aml_match(a, off,
                   "\x80"
                   "EREG\0",
                   6)) /* 0: system memory */
        return;
    off += 6;
    if (aml_integer(a, &off, &v))
        info->ged.base = v;
}

/* Devices whose resources were not found are dropped again. */
static void drop_incomplete(struct acpi_info *info, unsigned from)
{
    unsigned kept = from;
    for (unsigned i = from; i < info->virtio_count; i++)
        if (info->virtio[i].base && info->virtio[i].len)
            info->virtio[kept++] = info->virtio[i];
    info->virtio_count = kept;
}

struct scan {
    struct acpi_info *info;
    struct aml aml;
    struct acpi_device *device; /* whose resources may follow */
    size_t device_end;
};

static void scan_resource(struct scan *s, size_t i, uint8_t type)
{
    bool ours = s->device && i < s->device_end;
    if (type == RES_MEMORY32_FIXED && ours)
        scan_device_memory(s->device, &s->aml, i);
    else if (type == RES_INTERRUPT && ours)
        scan_device_interrupt(s->device, &s->aml, i);
    else if (type == RES_DWORD_SPACE && aml_match(&s->aml, i + 1, "\x17\0", 2))
        scan_window(s->info, &s->aml, i, 4);
    else if (type == RES_QWORD_SPACE && aml_match(&s->aml, i + 1, "\x2b\0", 2))
        scan_window(s->info, &s->aml, i, 8);
}

void acpi_scan_aml(struct acpi_info *info, const uint8_t *aml, size_t len)
{
    static const bool wanted[256] = {
        [AML_NAME] = true,      [AML_EXT] = true,         [RES_MEMORY32_FIXED] = true,
        [RES_INTERRUPT] = true, [RES_DWORD_SPACE] = true, [RES_QWORD_SPACE] = true,
        [AML_METHOD] = true,
    };
    struct scan s = {.info = info, .aml = {aml, len}};
    unsigned virtio_before = info->virtio_count;
    for (size_t i = 0; i < len; i++) {
        uint8_t b = aml[i];
        if (likely(!wanted[b]))
            continue;
        if (b == AML_NAME)
            scan_name(info, &s.aml, i + 1, &s.device, &s.device_end);
        else if (b == AML_METHOD)
            scan_method(info, &s.aml, i + 1);
        else if (b == AML_EXT)
            scan_region(info, &s.aml, i + 1);
        else
            scan_resource(&s, i, b);
    }
    drop_incomplete(info, virtio_before);
}
