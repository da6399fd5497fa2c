/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The first C code: reads the loader's records (PVH, which is also what our UEFI program writes),
 * learns about memory, loads the final page tables and the vectors, and hands over to the board.
 *
 * The records are physical addresses below 1 GiB, read through the first tables. The loader is as
 * trusted as the machine, yet lengths are bounded: a wrong record shall end in a message.
 * What is still needed later (command line, modules) is reserved; the rest of the records is not
 * read again, and its memory goes to the allocator.
 */
#include "boot/arch.h"
#include "boot/boot.h"
#include "boot/pte.h"
#include "boot/vm.h"
#include "boot/x86_64/cpu.h"
#include "boot/pvh_spec.h"
#include "kernel/board.h"
#include "kernel/log.h"
#include "kernel/page.h"

#define CMDLINE_MAX   0x10000u
#define MEMMAP_MAX    256u
#define AP_START_PAGE 0x8000u /* kept for the first instructions of other cores */

static uint64_t cmdline_phys, cmdline_len;

static const void *record(uint64_t phys, uint64_t len)
{
    if (!phys || !range_ok(phys, len, FIRST_TABLES_END))
        panic("PVH record at 0x%llx is out of reach", (unsigned long long)phys);
    return phys_to_linear(phys);
}

static void read_memmap(const struct hvm_start_info *si)
{
    unsigned n = MIN(si->memmap_entries, MEMMAP_MAX);
    if (si->version < 1 || !n)
        panic("no memory map (PVH version %u)", (unsigned)si->version);
    const struct hvm_memmap_entry *e = record(si->memmap_paddr, n * sizeof(*e));
    for (unsigned i = 0; i < n; i++)
        if (e[i].type == HVM_MEMMAP_RAM) /* microvm ends its list with an entry of zeros */
            memory_add(e[i].addr, e[i].size);
    memory_reserve(0, PAGE_SIZE); /* address 0 is nobody's buffer */
    memory_reserve(AP_START_PAGE, PAGE_SIZE);
    memory_reserve((uintptr_t)__image_start, (uintptr_t)(__image_end - __image_start));
}

static void read_cmdline(uint64_t phys)
{
    if (!phys)
        return;
    const char *s = record(phys, 1);
    size_t n = 0;
    while (n < CMDLINE_MAX && phys + n < FIRST_TABLES_END && s[n])
        n++;
    if (n == CMDLINE_MAX || phys + n == FIRST_TABLES_END)
        panic("the command line has no end");
    memory_reserve(phys, n + 1);
    cmdline_phys = phys;
    cmdline_len = n + 1;
}

static void read_modules(const struct hvm_start_info *si)
{
    unsigned n = MIN(si->nr_modules, BOOT_MODULES);
    if (!n)
        return;
    const struct hvm_modlist_entry *m = record(si->modlist_paddr, n * sizeof(*m));
    for (unsigned i = 0; i < n; i++) {
        if (m[i].size > UINT64_MAX - m[i].paddr)
            continue;
        memory_reserve(m[i].paddr, m[i].size);
        boot_info.module[boot_info.module_count++] =
            (struct phys_range){m[i].paddr, m[i].paddr + m[i].size};
    }
}

NORETURN void pvh_main(uint32_t start_info);
NORETURN void pvh_main(uint32_t start_info)
{
    const struct hvm_start_info *si = record(start_info, sizeof(*si));
    if (si->magic != HVM_START_MAGIC)
        panic("not started by the PVH protocol");
    read_memmap(si);
    read_cmdline(si->cmdline_paddr);
    read_modules(si);
    boot_info.rsdp = si->rsdp_paddr;

    /* The records may lie in what is handed out next: they have been read. */
    boot_map_memory();
    trap_init();
    /* qboot leaves it among the ROMs, outside of RAM. */
    boot_info.cmdline = cmdline_len ? phys_window(cmdline_phys, cmdline_len) : "";
    board_start(&boot_info);
}
