/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * ACPI tables: the input is memory from BASE on, where the root pointer is. What the reader asks
 * for it gets in a copy of exactly that length, with a checksum that is right, so that damage gets
 * past it. Whatever the tables say: the reader ends, stays inside, and what it reports has sense.
 */
#include "board/acpi.h"
#include "board/acpi_spec.h"

#include <stdlib.h>
#include <string.h>

#define BASE 0x1000u

static struct {
    const uint8_t *p;
    size_t len;
    void *copies[512];
    unsigned count;
} memory;

static void fix_sum(uint8_t *p, size_t len, uint8_t *at)
{
    uint8_t sum = 0;
    *at = 0;
    for (size_t i = 0; i < len; i++)
        sum = (uint8_t)(sum + p[i]);
    *at = (uint8_t)-sum;
}

static const void *map(void *ctx, uint64_t phys, size_t len)
{
    (void)ctx;
    if (phys < BASE || !range_ok(phys - BASE, len, memory.len) ||
        memory.count == ARRAY_LEN(memory.copies))
        return NULL;
    uint8_t *copy = malloc(len ? len : 1);
    memcpy(copy, memory.p + (phys - BASE), len);
    memory.copies[memory.count++] = copy;
    if (phys == BASE && len >= ACPI_RSDP_V1_LEN)
        fix_sum(copy, ACPI_RSDP_V1_LEN, copy + offsetof(struct acpi_rsdp, checksum));
    if (phys == BASE && len == sizeof(struct acpi_rsdp))
        fix_sum(copy, len, copy + offsetof(struct acpi_rsdp, extended_checksum));
    if (phys != BASE && len >= sizeof(struct acpi_header))
        fix_sum(copy, len, copy + offsetof(struct acpi_header, checksum));
    return copy;
}

static void check(const struct acpi_info *a)
{
    if (a->ioapics > ACPI_MAX_IOAPICS || a->virtio_count > ACPI_MAX_MMIO ||
        a->arm.redists > ACPI_MAX_REDISTS)
        abort();
    for (unsigned i = 0; i < a->virtio_count; i++)
        if (!a->virtio[i].base || !a->virtio[i].len)
            abort();
    for (unsigned i = 0; i < a->arm.redists; i++)
        if (a->arm.redist[i].size > UINT64_MAX - a->arm.redist[i].base)
            abort();
    if (a->ecam_first > a->ecam_last || (a->arm.timer_gsi && a->arm.timer_gsi - 16 > 15))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct acpi_reader reader = {map, NULL};
    static struct acpi_info info;
    memory.p = data;
    memory.len = size;
    if (!acpi_parse(&info, BASE, &reader))
        check(&info);
    while (memory.count)
        free(memory.copies[--memory.count]);
    return 0;
}
