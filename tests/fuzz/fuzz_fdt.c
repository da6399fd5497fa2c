/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A device tree is the input, in a copy that is aligned and has exactly its length. Whatever it
 * says: the reader ends, stays inside, and what it reports has sense.
 */
#include "board/fdt.h"

#include <stdlib.h>
#include <string.h>

static void check_range(struct machine_range x)
{
    if (!x.len || x.len > UINT64_MAX - x.base)
        abort();
}

static void check(const struct machine *m)
{
    for (unsigned i = 0; i < m->ram_count; i++)
        check_range(m->ram[i]);
    for (unsigned i = 0; i < m->reserved_count; i++)
        check_range(m->reserved[i]);
    for (unsigned i = 0; i < m->gic.redist_count; i++)
        if (m->gic.redist[i].end <= m->gic.redist[i].base)
            abort();
    for (unsigned i = 0; i < m->mmio_count; i++)
        if (m->mmio[i].gsi < 16 || m->mmio[i].gsi >= 1020 || !m->mmio[i].len)
            abort();
    if (m->pci.first_bus > m->pci.last_bus || m->button.line > 7)
        abort();
    if (m->bootargs && strlen(m->bootargs) == SIZE_MAX)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct machine m;
    uint8_t *copy = malloc(size ? size : 1);
    memcpy(copy, data, size);
    if (!fdt_read(&m, copy, size))
        check(&m);
    free(copy);
    return 0;
}
