/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The first C code: has the board look at the device tree for memory, completes the page tables and
 * hands over. MMU, caches and floating point are on, .bss is clear, exceptions are reported as far
 * as there is a console.
 */
#include "boot/boot.h"
#include "boot/uefi.h"
#include "boot/vm.h"
#include "boot/aarch64/cpu.h"
#include "kernel/page.h"

/* What the UEFI program knows: a struct uefi_handoff. Its memory is free RAM like any other; the
 * words are needed later. */
static void read_records(uint64_t records)
{
    const struct uefi_handoff *h = phys_window(records, offsetof(struct uefi_handoff, scratch));
    for (unsigned i = 0; i < h->start.memmap_entries; i++)
        memory_add(h->memmap[i].addr, h->memmap[i].size);
    memory_reserve(h->start.cmdline_paddr, sizeof(h->words));
    boot_info.cmdline = h->words;
    boot_info.rsdp = h->start.rsdp_paddr;
    boot_info.fdt = h->fdt;
}

/* `records`: of the UEFI program, or 0. */
NORETURN void arm_main(uint64_t fdt, uint64_t records, uint64_t image_phys);
NORETURN void arm_main(uint64_t fdt, uint64_t records, uint64_t image_phys)
{
    mmu_begin(image_phys);
    boot_info.fdt = fdt;
    if (records)
        read_records(records);
    board_survey(&boot_info);
    if (!boot_info.cmdline)
        boot_info.cmdline = "";
    memory_reserve(0, PAGE_SIZE); /* address 0 is nobody's buffer */
    memory_reserve(image_phys, (uint64_t)(__image_end - __image_start));
    boot_map_memory();
    board_start(&boot_info);
}
