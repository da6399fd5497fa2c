/* SPDX-License-Identifier: BSD-2-Clause */
#include "board/acpi_map.h"
#include "boot/boot.h"

static const void *map(void *ctx, uint64_t phys, size_t len)
{
    (void)ctx;
    const void *p = phys_window(phys, len);
    if (p)
        memory_reserve(phys, len);
    return p;
}

const struct acpi_reader acpi_physical = {map, NULL};
