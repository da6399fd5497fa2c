/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * virtio-mmio devices of microvm: from the DSDT (acpi=on), or from words that QEMU appends to the
 * command line (acpi=off): virtio_mmio.device=SIZE@BASE:LINE, numbers as in C. Only slots that hold
 * a device are listed there; a driver finds an empty one by its device id 0.
 */
#include "board/pc/pc.h"
#include <string.h>

#define WORD "virtio_mmio.device="

static bool number(const char **s, uint64_t *v)
{
    const char *p = *s;
    unsigned base = 10, digits = 0;
    if (p[0] == '0' && (p[1] == 'x' || p[1] == 'X')) {
        base = 16;
        p += 2;
    }
    for (*v = 0;; p++, digits++) {
        unsigned c = (unsigned char)*p, lower = c | 0x20;
        unsigned d = c >= '0' && c <= '9'           ? c - '0'
                     : lower >= 'a' && lower <= 'f' ? lower - 'a' + 10
                                                    : 99;
        if (d >= base)
            break;
        if (*v > (UINT64_MAX - d) / base)
            return false;
        *v = *v * base + d;
    }
    *s = p;
    return digits > 0;
}

static bool literal(const char **s, char c)
{
    if (**s != c)
        return false;
    ++*s;
    return true;
}

static bool word(const char *s, struct mmio_dev *d)
{
    uint64_t len, base, line;
    if (!number(&s, &len))
        return false;
    unsigned shift = *s == 'K' || *s == 'k' ? 10 : *s == 'M' || *s == 'm' ? 20 : 0;
    if (shift)
        s++;
    if (!literal(&s, '@') || !number(&s, &base) || !literal(&s, ':') || !number(&s, &line))
        return false;
    if (!len || len > 1u << 20 || !base || line > 4095)
        return false;
    *d = (struct mmio_dev){.compatible = MMIO_VIRTIO,
                           .phys = base,
                           .len = (size_t)(len << shift),
                           .gsi = (unsigned)line,
                           .level = true};
    return true;
}

static unsigned from_cmdline(struct mmio_dev *out, unsigned max)
{
    unsigned n = 0;
    const char *s = pc_cmdline;
    while (n < max && (s = strstr(s, WORD))) {
        bool starts = s == pc_cmdline || s[-1] == ' ';
        s += sizeof(WORD) - 1;
        if (starts && word(s, &out[n]))
            n++;
    }
    return n;
}

static unsigned from_acpi(struct mmio_dev *out, unsigned max)
{
    unsigned n = MIN(pc_acpi.virtio_count, max);
    for (unsigned i = 0; i < n; i++) {
        const struct acpi_device *a = &pc_acpi.virtio[i];
        out[i] = (struct mmio_dev){.compatible = MMIO_VIRTIO,
                                   .phys = a->base,
                                   .len = (size_t)a->len,
                                   .gsi = a->gsi,
                                   .level = a->level,
                                   .low = a->low};
    }
    return n;
}

unsigned pc_mmio_devices(struct mmio_dev *out, unsigned max)
{
    unsigned n = from_acpi(out, max);
    if (!n)
        n = from_cmdline(out, max);
    mmio_sort(out, n);
    return n;
}
