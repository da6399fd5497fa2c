/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The ACPI reader against a small machine of our own making, and against everything that can be
 * wrong with it. Memory is handed to the parser in copies of exactly the length it asked for, so
 * the address sanitizer sees each byte that it reads too far.
 */
#include "support.h"

#include "board/acpi.h"
#include "board/acpi_spec.h"
#include "kernel/error.h"

#include <stdlib.h>
#include <string.h>

#define BASE     0xf0000u
#define MEM_SIZE 4096u
enum {
    RSDP = 0,
    ROOT = 0x40,
    MADT = 0x100,
    MCFG = 0x200,
    FADT = 0x300,
    DSDT = 0x500,
    SSDT = 0x700,
    LONG_MADT = 0x800
};

static uint8_t memory[MEM_SIZE];
static size_t memory_size;
static void *copies[1024];
static unsigned copy_count;

static const void *map(void *ctx, uint64_t phys, size_t len)
{
    (void)ctx;
    if (phys < BASE || !range_ok(phys - BASE, len, memory_size) || copy_count == ARRAY_LEN(copies))
        return NULL;
    void *copy = malloc(len ? len : 1);
    memcpy(copy, memory + (phys - BASE), len);
    return copies[copy_count++] = copy;
}
static const struct acpi_reader reader = {map, NULL};

static int parse(struct acpi_info *info)
{
    int r = acpi_parse(info, BASE + RSDP, &reader);
    while (copy_count)
        free(copies[--copy_count]);
    return r;
}

static void fix_sum(size_t at, size_t len, size_t sum_at)
{
    uint8_t sum = 0;
    memory[sum_at] = 0;
    for (size_t i = 0; i < len; i++)
        sum = (uint8_t)(sum + memory[at + i]);
    memory[sum_at] = (uint8_t)-sum;
}

static void fix_table(size_t at)
{
    const struct acpi_header *h = (const void *)(memory + at);
    fix_sum(at, le32_get(h->length), at + offsetof(struct acpi_header, checksum));
}

static void put_table(size_t at, const char *signature, const void *body, size_t len)
{
    struct acpi_header *h = (void *)(memory + at);
    memset(h, 0, sizeof(*h));
    memcpy(h->signature, signature, 4);
    le32_set(&h->length, (uint32_t)(sizeof(*h) + len));
    if (body)
        memcpy(h + 1, body, len);
    fix_table(at);
}

static void put_root(bool wide, const uint32_t *entry, unsigned n)
{
    uint8_t body[256] = {0};
    for (unsigned i = 0; i < n; i++) {
        le32 v;
        le32_set(&v, entry[i]);
        memcpy(body + i * (wide ? 8 : 4), &v, 4);
    }
    put_table(ROOT, wide ? "XSDT" : "RSDT", body, n * (wide ? 8 : 4));
    struct acpi_rsdp *p = (void *)(memory + RSDP);
    memset(p, 0, sizeof(*p));
    memcpy(p->signature, "RSD PTR ", 8);
    p->revision = wide ? 2 : 0;
    le32_set(&p->rsdt, BASE + ROOT);
    le32_set(&p->length, sizeof(*p));
    le64_set(&p->xsdt, wide ? BASE + ROOT : 0);
    fix_sum(RSDP, ACPI_RSDP_V1_LEN, RSDP + offsetof(struct acpi_rsdp, checksum));
    fix_sum(RSDP, sizeof(*p), RSDP + offsetof(struct acpi_rsdp, extended_checksum));
}

static const uint8_t madt_body[] = {
    0,   0,  0xe0, 0xfe, 1, 0, 0,    0,                   /* local APIC address, flags */
    0,   8,  0,    7,    1, 0, 0,    0,                   /* core 7 */
    0,   8,  1,    8,    0, 0, 0,    0,                   /* core 8, disabled */
    1,   12, 0,    0,    0, 0, 0xc0, 0xfe, 0,    0, 0, 0, /* I/O APIC */
    1,   12, 1,    0,    0, 0, 0xc1, 0xfe, 24,   0, 0, 0, /* another, from 24 on */
    2,   10, 0,    9,    5, 0, 0,    0,    0x0f, 0,       /* line 9 is 5, level, low */
    200, 4,  1,    1,                                     /* unknown */
};
static const uint8_t dsdt_body[] =
    {
        0x08, '_',  'S',  '5',  '_',  0x12, 0x06, 0x04, 0x0a, 0x05, 0x00, 0x00, 0x00,    /* */
        0x5b, 0x80, 'E',  'R',  'E',  'G',  0,    0x0c, 0,    0,    0xa0, 0xfe, 0x0a, 4, /* */
        0x08, '_',  'H',  'I',  'D',  0x0d, 'A',  'C',  'P',  'I',  '0',  '0',  '1',  '3',
        0,                                                 /* */
        0x89, 6,    0,    3,    1,    9,    0,    0,    0, /* edge, GSI 9 */
        0x08, '_',  'H',  'I',  'D',  0x0d, 'L',  'N',  'R',  'O',  '0',  '0',  '0',  '5',
        0,                                                                   /* */
        0x86, 9,    0,    1,    0,    0x2e, 0xb0, 0xfe, 0,    2,    0,    0, /* 512 bytes */
        0x89, 6,    0,    1,    1,    47,   0,    0,    0,                   /* level, GSI 47 */
        0x08, '_',  'H',  'I',  'D',  0x0d, 'L',  'N',  'R',  'O',  '0',  '0',  '0',  '5',
        0, /* no resources */
        0x87, 0x17, 0,    0,    0x0c, 1,    0,    0,    0,    0,    0,    0,    0,    0xc0,
        0xff, 0xff, 0xff, 0xdf, 0,    0,    0,    0,    0,    0,    0,    0x20, /* */
};

static void put_machine(bool wide)
{
    static const uint32_t root[] = {BASE + MADT, BASE + MCFG, BASE + FADT};
    memset(memory, 0, sizeof(memory));
    memory_size = sizeof(memory);
    put_root(wide, root, ARRAY_LEN(root));
    put_table(MADT, "APIC", madt_body, sizeof(madt_body));
    uint8_t mcfg[8 + sizeof(struct acpi_mcfg_entry)] = {0};
    struct acpi_mcfg_entry *e = (void *)(mcfg + 8);
    le64_set(&e->base, 0xb0000000);
    e->last_bus = 255;
    put_table(MCFG, "MCFG", mcfg, sizeof(mcfg));
    put_table(FADT, "FACP", NULL, sizeof(struct acpi_fadt) - sizeof(struct acpi_header));
    struct acpi_fadt *f = (void *)(memory + FADT);
    le16_set(&f->sci_int, 9);
    le32_set(&f->pm1a_cnt, 0x604);
    f->x_pm_tmr.space = ACPI_SPACE_IO;
    le64_set(&f->x_pm_tmr.address, 0x608);
    le32_set(&f->dsdt, BASE + DSDT);
    fix_table(FADT);
    put_table(DSDT, "DSDT", dsdt_body, sizeof(dsdt_body));
}

static void check_machine(const struct acpi_info *a)
{
    assert_int_equal(a->cpus, 1);
    assert_int_equal(a->cpu_id[0], 7);
    assert_int_equal(a->ioapics, 2);
    assert_int_equal(a->ioapic[1].base, 0xfec10000);
    assert_int_equal(a->ioapic[1].gsi_base, 24);
    assert_true(a->isa_irq[9].set && a->isa_irq[9].level && a->isa_irq[9].low);
    assert_int_equal(a->isa_irq[9].gsi, 5);
    assert_int_equal(a->ecam.base, 0xb0000000);
    assert_int_equal(a->ecam.size, 256u << 20);
    assert_int_equal(a->pm1a_cnt, 0x604);
    assert_int_equal(a->pm_timer, 0x608);
    assert_true(a->s5);
    assert_int_equal(a->s5_a, 5);
    assert_int_equal(a->virtio_count, 1);
    assert_int_equal(a->virtio[0].base, 0xfeb02e00);
    assert_int_equal(a->virtio[0].len, 512);
    assert_int_equal(a->virtio[0].gsi, 47);
    assert_true(a->virtio[0].level);
    assert_int_equal(a->ged.base, 0xfea00000);
    assert_int_equal(a->ged.gsi, 9);
    assert_false(a->ged.level);
    assert_int_equal(a->mmio32.base, 0xc0000000);
    assert_int_equal(a->mmio32.size, 0x20000000);
}

static void test_reads_a_machine(void **state)
{
    (void)state;
    struct acpi_info a;
    for (int wide = 0; wide < 2; wide++) {
        put_machine(wide);
        assert_int_equal(parse(&a), 0);
        check_machine(&a);
    }
}

static void test_memory_ends_anywhere(void **state)
{
    (void)state;
    struct acpi_info a;
    put_machine(true);
    for (memory_size = 0; memory_size < SSDT; memory_size++)
        parse(&a);
    assert_int_equal(parse(&a), 0);
    check_machine(&a);
}

/* Each table in turn with a wrong sum: it is missing, the others are there. */
static void test_bad_sums(void **state)
{
    (void)state;
    struct acpi_info a;
    put_machine(false);
    memory[MADT + 12]++;
    memory[DSDT + 40]++;
    assert_int_equal(parse(&a), 0);
    assert_int_equal(a.cpus, 0);
    assert_false(a.s5);
    assert_int_equal(a.pm1a_cnt, 0x604);
    assert_int_equal(a.ecam.base, 0xb0000000);
    put_machine(false);
    memory[ROOT + 12]++;
    assert_int_equal(parse(&a), SR_EINVAL);
    put_machine(false);
    memory[RSDP + 10]++;
    assert_int_equal(parse(&a), SR_EINVAL);
}

static void test_circles(void **state)
{
    (void)state;
    struct acpi_info a;
    uint32_t self[64];
    for (unsigned i = 0; i < 50; i++)
        self[i] = i % 2 ? BASE + ROOT : BASE + FADT;
    put_machine(false);
    put_root(false, self, 50);
    struct acpi_fadt *f = (void *)(memory + FADT);
    le32_set(&f->dsdt, BASE + FADT);
    fix_table(FADT);
    assert_int_equal(parse(&a), 0);
    assert_true(a.fadt);
    assert_false(a.s5);
    struct acpi_rsdp *p = (void *)(memory + RSDP);
    le32_set(&p->rsdt, BASE + RSDP);
    fix_sum(RSDP, ACPI_RSDP_V1_LEN, RSDP + offsetof(struct acpi_rsdp, checksum));
    assert_int_equal(parse(&a), SR_EINVAL);
}

static void test_lengths_that_lie(void **state)
{
    (void)state;
    static const uint32_t lengths[] = {0, 1, 35, 36, 37, 44, 45, 0x10000, 0x7fffffff, 0xffffffff};
    struct acpi_info a;
    for (unsigned i = 0; i < ARRAY_LEN(lengths); i++)
        for (unsigned t = ROOT; t <= DSDT; t += 0x20) {
            if (t != ROOT && t != MADT && t != MCFG && t != FADT && t != DSDT)
                continue;
            put_machine(false);
            struct acpi_header *h = (void *)(memory + t);
            le32_set(&h->length, lengths[i]);
            if (lengths[i] >= sizeof(*h) && lengths[i] < MEM_SIZE - t)
                fix_table(t);
            parse(&a);
        }
}

static void test_madt_entries_that_lie(void **state)
{
    (void)state;
    struct acpi_info a;
    for (size_t at = 8; at < sizeof(madt_body); at++)
        for (unsigned v = 0; v < 256; v += v < 14 ? 1 : 60) {
            put_machine(false);
            memory[MADT + sizeof(struct acpi_header) + at] = (uint8_t)v;
            fix_table(MADT);
            assert_int_equal(parse(&a), 0);
        }
}

/* Every cut and many changed bytes of the AML; only sanity is asserted. */
static void test_aml_damage(void **state)
{
    (void)state;
    struct acpi_info a;
    for (size_t len = 0; len <= sizeof(dsdt_body); len++) {
        uint8_t *copy = malloc(len ? len : 1);
        memcpy(copy, dsdt_body, len);
        memset(&a, 0, sizeof(a));
        acpi_scan_aml(&a, copy, len);
        assert_true(a.virtio_count <= 1);
        for (size_t i = 0; i < len; i++) {
            copy[i] ^= (uint8_t)(1u << (i + len) % 8);
            memset(&a, 0, sizeof(a));
            acpi_scan_aml(&a, copy, len);
            copy[i] = dsdt_body[i];
        }
        free(copy);
    }
}

/* A host bridge that says where its ECAM is by _CBA; every cut of it; MCFG wins. */
static void test_ecam_by_cba(void **state)
{
    (void)state;
    static const uint8_t aml[] = {0x14, 0x0c, '_', 'C', 'B', 'A', 0, 0xa4, 0x0c, 0, 0, 0, 0xe0};
    struct acpi_info a = {0};
    acpi_scan_aml(&a, aml, sizeof(aml));
    assert_int_equal(a.ecam.base, 0xe0000000);
    assert_int_equal(a.ecam_last, 255);
    for (size_t len = 0; len < sizeof(aml); len++) {
        a = (struct acpi_info){0};
        acpi_scan_aml(&a, aml, len);
        assert_int_equal(a.ecam.base, 0);
    }
    a = (struct acpi_info){.ecam = {0xb0000000, 256u << 20}};
    acpi_scan_aml(&a, aml, sizeof(aml));
    assert_int_equal(a.ecam.base, 0xb0000000);
}

static void test_too_many_devices(void **state)
{
    (void)state;
    static uint8_t aml[200 * 36];
    struct acpi_info a = {0};
    for (unsigned i = 0; i < 200; i++)
        memcpy(aml + i * 36, dsdt_body + 13 + 13 + 15 + 9, 36);
    acpi_scan_aml(&a, aml, sizeof(aml));
    assert_int_equal(a.virtio_count, ACPI_MAX_MMIO);
}

/* Three processors, the third off, with redistributors of their own; and a region of those. */
static size_t make_madt(uint8_t *madt)
{
    size_t at = 8;
    for (unsigned i = 0; i < 3; i++, at += sizeof(struct madt_gicc)) {
        struct madt_gicc *c = (void *)(madt + at);
        c->type = MADT_GICC;
        c->len = sizeof(*c);
        le32_set(&c->uid, i);
        le32_set(&c->flags, i < 2);
        le64_set(&c->base, 0x8010000);
        le64_set(&c->gicr, 0x80a0000 + i * 0x20000);
    }
    struct madt_gicd *d = (void *)(madt + at);
    *d = (struct madt_gicd){.type = MADT_GICD, .len = sizeof(*d), .version = 3};
    le64_set(&d->base, 0x8000000);
    at += sizeof(*d);
    struct madt_gicr *r = (void *)(madt + at);
    *r = (struct madt_gicr){.type = MADT_GICR, .len = sizeof(*r)};
    le64_set(&r->base, 0x9000000);
    le32_set(&r->length, 0x40000);
    at += sizeof(*r);
    struct madt_gic_msi *m = (void *)(madt + at);
    *m = (struct madt_gic_msi){.type = MADT_GIC_MSI, .len = sizeof(*m)};
    le64_set(&m->base, 0x8020000);
    at += sizeof(*m);
    struct madt_gic_its *t = (void *)(madt + at);
    *t = (struct madt_gic_its){.type = MADT_GIC_ITS, .len = sizeof(*t)};
    le64_set(&t->base, 0x8080000);
    at += sizeof(*t);
    return at;
}

static void test_arm(void **state)
{
    (void)state;
    static const uint32_t root[] = {BASE + LONG_MADT, BASE + MCFG, BASE + FADT, BASE + SSDT};
    struct acpi_info a;
    memory_size = sizeof(memory);
    memset(memory, 0, sizeof(memory));
    put_root(true, root, ARRAY_LEN(root));
    static uint8_t madt[512];
    size_t at = make_madt(madt);
    put_table(LONG_MADT, "APIC", madt, at);
    struct acpi_gtdt gtdt = {0};
    le32_set(&gtdt.virtual_gsi, 27);
    put_table(MCFG, "GTDT", &gtdt.counter, sizeof(gtdt) - sizeof(gtdt.header));
    put_table(FADT, "FACP", NULL, sizeof(struct acpi_fadt) - sizeof(struct acpi_header));
    le16_set(&((struct acpi_fadt *)(void *)(memory + FADT))->arm_flags, 3);
    fix_table(FADT);
    struct acpi_spcr spcr = {.type = SPCR_PL011};
    le64_set(&spcr.base.address, 0x9000000);
    put_table(SSDT, "SPCR", &spcr.type, sizeof(spcr) - sizeof(spcr.header));

    assert_int_equal(parse(&a), 0);
    assert_int_equal(a.cpus, 2);
    assert_int_equal(a.arm.gic, 3);
    assert_int_equal(a.arm.dist, 0x8000000);
    assert_int_equal(a.arm.cpu, 0x8010000);
    assert_int_equal(a.arm.v2m, 0x8020000);
    assert_int_equal(a.arm.its, 0x8080000);
    assert_int_equal(a.arm.redists, 2);
    assert_int_equal(a.arm.redist[0].size, 0x40000); /* two that touch */
    assert_int_equal(a.arm.redist[1].base, 0x9000000);
    assert_int_equal(a.arm.timer_gsi, 27);
    assert_int_equal(a.arm.pl011, 0x9000000);
    assert_true(a.arm.psci && a.arm.psci_hvc);
    static const uint8_t aml[] = {0x08, '_', 'H', 'I', 'D', 0x0d, 'Q',  'E', 'M',
                                  'U',  '0', '0', '0', '2', 0,    0x86, 9,   0,
                                  1,    0,   0,   2,   9,   0x18, 0,    0,   0};
    acpi_scan_aml(&a, aml, sizeof(aml));
    assert_int_equal(a.arm.fw_cfg.base, 0x9020000);
    assert_int_equal(a.virtio_count, 0);
    for (size_t cut = 0; cut <= at; cut++) { /* entries that end too early */
        put_table(LONG_MADT, "APIC", madt, cut);
        assert_int_equal(parse(&a), 0);
        assert_int_equal(a.arm.timer_gsi, 27);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_a_machine),  cmocka_unit_test(test_memory_ends_anywhere),
        cmocka_unit_test(test_bad_sums),         cmocka_unit_test(test_circles),
        cmocka_unit_test(test_lengths_that_lie), cmocka_unit_test(test_madt_entries_that_lie),
        cmocka_unit_test(test_aml_damage),       cmocka_unit_test(test_ecam_by_cba),
        cmocka_unit_test(test_too_many_devices), cmocka_unit_test(test_arm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
