/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The first C code: has the board look at the device tree for memory, completes the page tables and
 * hands over. MMU, caches and floating point are on, .bss is clear, exceptions are reported as far
 * as there is a console.
 */
#include "boot/boot.h"
#include "boot/vm.h"
#include "boot/aarch64/cpu.h"
#include "kernel/page.h"

/* `records`: of the UEFI program, not used yet. */
NORETURN void arm_main(uint64_t fdt, uint64_t records, uint64_t image_phys);
NORETURN void arm_main(uint64_t fdt, uint64_t records, uint64_t image_phys)
{
    (void)records;
    mmu_begin(image_phys);
    boot_info.fdt = fdt;
    board_survey(&boot_info);
    if (!boot_info.cmdline)
        boot_info.cmdline = "";
    memory_reserve(0, PAGE_SIZE); /* address 0 is nobody's buffer */
    memory_reserve(image_phys, (uint64_t)(__image_end - __image_start));
    boot_map_memory();
    board_start(&boot_info);
}
