/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The device tree reader against the trees that QEMU gives, against small ones of our own, and
 * against damage: cut anywhere, each word of it changed. Trees are read in copies of exactly their
 * length, so the address sanitizer sees each byte that is read too far.
 */
#include "support.h"

#include "board/fdt.h"
#include "kernel/error.h"

#include <libfdt.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct machine m;

struct tree {
    uint8_t *p;
    size_t len;
};

static struct tree load(const char *path)
{
    struct tree t = {NULL, 0};
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    t.p = malloc(2 << 20);
    t.len = fread(t.p, 1, 2 << 20, f);
    fclose(f);
    unlink(path);
    assert_true(t.len > sizeof(struct fdt_header));
    size_t a = fdt_off_dt_struct(t.p) + fdt_size_dt_struct(t.p);
    size_t b = fdt_off_dt_strings(t.p) + fdt_size_dt_strings(t.p);
    t.len = MAX(a, b); /* QEMU's have a megabyte of room */
    fdt_set_totalsize(t.p, (uint32_t)t.len);
    t.p = realloc(t.p, t.len);
    return t;
}

static struct tree made_by(const char *format, const char *arg)
{
    char path[] = "/tmp/test_fdt.XXXXXX", command[512];
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    snprintf(command, sizeof(command), format, arg, path);
    if (system(command))
        fail_msg("no tree: %s", command);
    return load(path);
}

static struct tree from_qemu(const char *machine)
{
    return made_by("qemu-system-aarch64 -M %s,dumpdtb=%s -m 256 -smp 2 -nodefaults -display none "
                   ">/dev/null 2>&1",
                   machine);
}

/* A tree from source. */
static struct tree from_source(const char *text)
{
    char path[] = "/tmp/test_fdt.dts.XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    FILE *f = fdopen(fd, "w");
    fprintf(f, "/dts-v1/;\n%s", text);
    fclose(f);
    struct tree t = made_by("dtc -q -I dts -O dtb %s -o %s", path);
    unlink(path);
    return t;
}

/* The bus that the tests of single devices hang theirs on. */
#define BUS(devices)                                                           \
    "/ { #address-cells = <2>; #size-cells = <2>; interrupt-parent = <&gic>;"  \
    "gic: gic@8000000 { compatible = \"arm,gic-400\"; #interrupt-cells = <3>;" \
    " interrupt-controller; reg = <0 0x8000000 0 0x1000 0 0x8010000 0 0x1000>; };" devices " };"

static int read_source(const char *text)
{
    struct tree t = from_source(text);
    int rc = fdt_read(&m, t.p, t.len);
    free(t.p);
    return rc;
}

static void test_virt(void **state)
{
    (void)state;
    struct tree t = from_qemu("virt");
    assert_int_equal(fdt_read(&m, t.p, t.len), 0);
    assert_string_equal(m.compatible, "linux,dummy-virt");
    assert_int_equal(m.cpus, 2);
    assert_int_equal(m.ram_count, 1);
    assert_int_equal(m.ram[0].base, 0x40000000);
    assert_int_equal(m.ram[0].len, 256u << 20);
    assert_int_equal(m.seed_len, 32);
    assert_int_equal(m.pl011, 0x9000000);
    assert_int_equal(m.gic.version, 2);
    assert_int_equal(m.gic.dist, 0x8000000);
    assert_int_equal(m.gic.cpu, 0x8010000);
    assert_int_equal(m.gic.v2m, 0x8020000);
    assert_int_equal(m.gic.its, 0);
    assert_int_equal(m.timer_irq, 27);
    assert_int_equal(m.psci, PSCI_CONDUIT_HVC);
    assert_int_equal(m.fw_cfg, 0x9020000);
    assert_int_equal(m.button.pl061, 0x9030000);
    assert_int_equal(m.button.line, 3);
    assert_int_equal(m.pci.ecam, 0x4010000000);
    assert_int_equal(m.pci.last_bus, 255);
    assert_int_equal(m.pci.intx, 35);
    assert_int_equal(m.pci.mmio32.base, 0x10000000);
    assert_int_equal(m.pci.mmio32.len, 0x2eff0000);
    assert_int_equal(m.pci.mmio64.base, 0x8000000000);
    assert_int_equal(m.mmio_count, 32);
    for (unsigned i = 0; i < 32; i++) {
        assert_string_equal(m.mmio[i].compatible, MMIO_VIRTIO);
        assert_int_equal(m.mmio[i].gsi - 48, (m.mmio[i].phys - 0xa000000) / 0x200);
        assert_false(m.mmio[i].level);
    }
    free(t.p);
}

static void test_virt_gic3(void **state)
{
    (void)state;
    struct tree t = from_qemu("virt,gic-version=3,virtualization=on,highmem=off");
    assert_int_equal(fdt_read(&m, t.p, t.len), 0);
    assert_int_equal(m.gic.version, 3);
    assert_int_equal(m.gic.redist_count, 1);
    assert_int_equal(m.gic.redist[0].base, 0x80a0000);
    assert_int_equal(m.gic.redist[0].end, 0x9000000);
    assert_int_equal(m.gic.its, 0x8080000);
    assert_int_equal(m.gic.v2m, 0);
    assert_int_equal(m.psci, PSCI_CONDUIT_SMC);
    assert_int_equal(m.pci.ecam, 0x3f000000);
    assert_int_equal(m.pci.last_bus, 15);
    free(t.p);
}

static void test_sbsa(void **state)
{
    (void)state;
    struct tree t = from_qemu("sbsa-ref");
    assert_int_equal(fdt_read(&m, t.p, t.len), 0);
    assert_string_equal(m.compatible, "linux,sbsa-ref");
    assert_int_equal(m.cpus, 2);
    assert_int_equal(m.ram[0].base, 0x10000000000);
    assert_int_equal(m.gic.version, 0);
    free(t.p);
}

static void test_chosen(void **state)
{
    (void)state;
    struct tree t =
        from_source("/memreserve/ 0x48000000 0x1000;\n"
                    "/ { #address-cells = <2>; #size-cells = <2>;"
                    "aliases { serial0 = \"/b@2000\"; loop = \"loop\"; };"
                    "chosen { bootargs = \"a b\"; linux,initrd-start = <0x44000000>;"
                    " linux,initrd-end = <0 0x44000010>; stdout-path = \"serial0:115200n8\"; };"
                    "reserved-memory { #address-cells = <2>; #size-cells = <2>; ranges;"
                    " wish { size = <0 0x1000>; }; x@5 { reg = <0 0x50000000 0 0x2000>; }; };"
                    "a@1000 { compatible = \"arm,pl011\"; reg = <0 0x1000 0 0x1000>; };"
                    "b@2000 { compatible = \"x\", \"arm,pl011\"; reg = <0 0x2000 0 0x1000>; };"
                    "c@3000 { compatible = \"arm,pl011\"; reg = <0 0x3000 0 0x1000>; }; };");
    assert_int_equal(fdt_read(&m, t.p, t.len), 0);
    assert_string_equal(m.bootargs, "a b");
    assert_int_equal(m.initrd.base, 0x44000000);
    assert_int_equal(m.initrd.len, 16);
    assert_int_equal(m.pl011, 0x2000);
    assert_int_equal(m.reserved_count, 2);
    assert_int_equal(m.reserved[0].base, 0x48000000);
    assert_int_equal(m.reserved[1].base, 0x50000000);
    free(t.p);
    assert_int_equal(read_source("/ { aliases { loop = \"loop\"; };"
                                 "chosen { stdout-path = \"loop\"; bootargs = [41 42]; }; };"),
                     0);
    assert_null(m.bootargs);
}

static void test_translation(void **state)
{
    (void)state;
    read_source(BUS("soc { compatible = \"simple-bus\"; #address-cells = <1>; #size-cells = <1>;"
                    " ranges = <0 0 0x70000000 0x1000>, <0x1000 1 0 0x2000>;"
                    " u@1800 { compatible = \"arm,pl011\"; reg = <0x1800 0x800>; };"
                    " inner { #address-cells = <1>; #size-cells = <1>; ranges;"
                    "  f@10 { compatible = \"qemu,fw-cfg-mmio\"; reg = <0x10 0x18>; }; };"
                    " v@2f00 { compatible = \"virtio,mmio\"; reg = <0x2f00 0x200>;"
                    "  interrupts = <0 1 1>; }; };"                   /* runs out of its bus */
                    "dark { #address-cells = <1>; #size-cells = <1>;" /* no ranges: no way in */
                    " w@0 { compatible = \"virtio,mmio\"; reg = <0 0x200>;"
                    "  interrupts = <0 1 1>; }; };"));
    assert_int_equal(m.pl011, 0x100000800);
    assert_int_equal(m.fw_cfg, 0x70000010);
    assert_int_equal(m.mmio_count, 0);
}

/* Devices that are wrong, each alone: it is missing, its neighbour is there. */
static void test_bad_devices(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "compatible = \"virtio,mmio\"; interrupts = <0 1 1>;",
        "compatible = \"virtio,mmio\"; reg = <0 0xa000000>; interrupts = <0 1 1>;",
        "compatible = \"virtio,mmio\"; reg = <0 0xa000000 0 0>; interrupts = <0 1 1>;",
        "compatible = \"virtio,mmio\"; reg = <0 0xa000000 0xffffffff 0xffffffff>;"
        " interrupts = <0 1 1>;",
        "compatible = \"virtio,mmio\"; reg = <0 0xa000000 0 0x200>;",
        "compatible = \"virtio,mmio\"; reg = <0 0xa000000 0 0x200>; interrupts = <0 1>;",
        "compatible = \"virtio,mmio\"; reg = <0 0xa000000 0 0x200>; interrupts = <2 1 1>;",
        "compatible = \"virtio,mmio\"; reg = <0 0xa000000 0 0x200>; interrupts = <0 988 1>;",
        "compatible = \"virtio,mmio\"; reg = <0 0xa000000 0 0x200>; interrupts = <0 1 1>;"
        " interrupt-parent = <77>;",
        "compatible = \"virtio,mmio\"; reg = <0 0xa000000 0 0x200>; interrupts = <0 1 1>;"
        " status = \"disabled\";",
        "compatible = [76 69]; reg = <0 0xa000000 0 0x200>; interrupts = <0 1 1>;",
        "compatible = \"arm,gic-v3\"; reg = <0 0xa000000 0 0x200>;",
        "compatible = \"pci-host-ecam-generic\"; reg = <0 0xa000000 0 0x1000>;",
        "compatible = \"pci-host-ecam-generic\"; reg = <0 0xa000000 0 0x1000000>;"
        " bus-range = <5>;",
        "compatible = \"pci-host-ecam-generic\"; reg = <0 0xa000000 0 0x1000000>;"
        " bus-range = <5 4>;",
        "compatible = \"pci-host-ecam-generic\"; reg = <0 0xa000000 0 0x1000000>;"
        " bus-range = <0 256>;",
        "compatible = \"arm,armv8-timer\"; interrupts = <1 13 4>;",
        "compatible = \"arm,psci-1.0\"; method = \"magic\";",
    };
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        char text[2048];
        snprintf(text, sizeof(text),
                 BUS("bad { %s };"
                     "good { compatible = \"virtio,mmio\"; reg = <0 0xb000000 0 0x200>;"
                     " interrupts = <0 2 4>; };"),
                 bad[i]);
        assert_int_equal(read_source(text), 0);
        assert_int_equal(m.gic.version, 2);
        assert_int_equal(m.mmio_count, 1);
        assert_int_equal(m.mmio[0].gsi, 34);
        assert_true(m.mmio[0].level);
        assert_int_equal(m.pci.ecam | m.timer_irq | m.psci, 0);
    }
}

static void test_interrupt_map(void **state)
{
    (void)state;
    static const struct {
        const char *map;
        unsigned intx;
    } t[] = {
        {"0 0 0 1 &gic 0 8 4", 40},
        {"0 0 0 1 &gic 0 8 4 0 0 0 2 &gic 0 9 4 0x800 0 0 1 &gic 0 9 4 0x800 0 0 4 &gic 0 8 4", 40},
        {"0 0 0 1 &gic 0 8 4 0 0 0 2 &gic 0 10 4", 0}, /* not in a row */
        {"0 0 0 1 &gic 0 8 4 0x800 0 0 1 &gic 0 8 4", 0},
        {"0 0 0 1 &gic 0 8 1", 0}, /* an edge */
        {"0 0 0 0 &gic 0 8 4", 0},
        {"0 0 0 9 &gic 0 8 4", 0},
        {"0 0 0 1 77 0 8 4", 0},
        {"0 0 0 1 &gic 0 8", 0},
        {"0 0 0 2 &gic 0 9 4", 0},
    };
    for (unsigned i = 0; i < ARRAY_LEN(t); i++) {
        char text[1024];
        snprintf(text, sizeof(text),
                 BUS("pci { compatible = \"pci-host-ecam-generic\"; #address-cells = <3>;"
                     " #size-cells = <2>; reg = <0 0x30000000 0 0x1000000>;"
                     " interrupt-map = <%s>; };"),
                 t[i].map);
        assert_int_equal(read_source(text), 0);
        assert_int_equal(m.pci.ecam, 0x30000000);
        assert_int_equal(m.pci.last_bus, 15);
        assert_int_equal(m.pci.intx, t[i].intx);
    }
}

static void test_absurd_cells(void **state)
{
    (void)state;
    for (unsigned cells = 0; cells < 6; cells++) {
        char text[512];
        snprintf(text, sizeof(text),
                 "/ { #address-cells = <%u>; #size-cells = <%u>;"
                 "u@0 { compatible = \"arm,pl011\"; reg = <0 1 0 1>; }; };",
                 cells == 5 ? 0xffffffff : cells, cells == 4 ? 0x40000001 : 2);
        assert_int_equal(read_source(text), 0);
        assert_true(!m.pl011 || (cells && cells <= 2));
    }
}

static void test_deep_and_many(void **state)
{
    (void)state;
    static char text[64 << 10];
    char *p = text;
    p += sprintf(p, "/ { #address-cells = <1>; #size-cells = <1>; interrupt-parent = <&gic>;"
                    "gic: gic { compatible = \"arm,gic-400\"; #interrupt-cells = <3>;"
                    " reg = <0x8000000 0x1000 0x8010000 0x1000>; };");
    for (unsigned i = 0; i < MACHINE_MAX_MMIO + 5; i++)
        p += sprintf(
            p, "v@%x { compatible = \"virtio,mmio\"; reg = <0x%x 1>; interrupts = <0 %u 1>; };",
            i + 1, i + 1, i);
    for (unsigned i = 0; i < 20; i++)
        p += sprintf(p,
                     "n { ranges; #address-cells = <1>; #size-cells = <1>;"
                     "u@1 { compatible = \"arm,pl011\"; reg = <%u 1>; };",
                     i + 1);
    for (unsigned i = 0; i < 20; i++)
        p += sprintf(p, "};");
    sprintf(p, "m { device_type = \"memory\"; reg = <0 1 2 3>; }; };");
    assert_int_equal(read_source(text), 0);
    assert_int_equal(m.mmio_count, MACHINE_MAX_MMIO);
    assert_int_equal(m.pl011, 1);
    assert_int_equal(m.ram_count, 2);
}

/* The lines that damaged trees cause would be thousands. */
static int silence(void **state)
{
    static int out = -1;
    (void)state;
    if (out < 0) {
        out = dup(2);
        int null = open("/dev/null", O_WRONLY);
        dup2(null, 2);
        close(null);
    } else {
        dup2(out, 2);
        close(out);
        out = -1;
    }
    return 0;
}

static bool quietly(struct tree t, size_t len)
{
    uint8_t *copy = malloc(len ? len : 1);
    memcpy(copy, t.p, len);
    bool ok = !fdt_read(&m, copy, len);
    free(copy);
    return ok;
}

static void test_cut_anywhere(void **state)
{
    (void)state;
    struct tree t = from_qemu("virt");
    for (size_t len = 0; len < t.len; len += 1 + len / 64)
        assert_false(quietly(t, len));
    /* The header knows of the cut: what lies before it is read. */
    size_t structure = fdt_off_dt_struct(t.p), size = fdt_size_dt_struct(t.p);
    for (size_t cut = 0; cut < size; cut += 52) {
        fdt_set_size_dt_struct(t.p, (uint32_t)cut);
        quietly(t, t.len);
    }
    fdt_set_size_dt_struct(t.p, (uint32_t)size);
    memset(t.p + structure + size / 2, 0xff, 4);
    assert_true(quietly(t, t.len));
    assert_int_equal(m.ram_count, 1);
    free(t.p);
}

static void test_each_word_changed(void **state)
{
    (void)state;
    static const uint32_t values[] = {0, UINT32_MAX, 0x01000000, 0xf0ffff7f, 0x02000000};
    struct tree t = from_qemu("virt,gic-version=3");
    for (size_t at = 0; at + 4 <= t.len; at += 4) {
        uint32_t old, v = values[at / 4 % ARRAY_LEN(values)];
        memcpy(&old, t.p + at, 4);
        memcpy(t.p + at, &v, 4);
        quietly(t, t.len);
        memcpy(t.p + at, &old, 4);
    }
    assert_true(quietly(t, t.len));
    assert_int_equal(m.mmio_count, 32);
    free(t.p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_virt),
        cmocka_unit_test(test_virt_gic3),
        cmocka_unit_test(test_sbsa),
        cmocka_unit_test(test_chosen),
        cmocka_unit_test(test_translation),
        cmocka_unit_test(test_bad_devices),
        cmocka_unit_test(test_interrupt_map),
        cmocka_unit_test(test_absurd_cells),
        cmocka_unit_test(test_deep_and_many),
        cmocka_unit_test_setup_teardown(test_cut_anywhere, silence, silence),
        cmocka_unit_test_setup_teardown(test_each_word_changed, silence, silence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
