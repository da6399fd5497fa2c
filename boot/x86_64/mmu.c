/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The final page tables of a PC (boot/vm.c has the layout). The image lies at its physical address,
 * 0x100000 and up; the first tables, which start.S made, map the first GiB, and the linear map with
 * it, so that tables can be made anywhere in there.
 */
#include "boot/arch.h"
#include "boot/boot.h"
#include "boot/vm.h"
#include "boot/x86_64/cpu.h"
#include "kernel/page.h"

uint64_t vm_early_table(void)
{
    return memory_handed_over() ? 0 : memory_early_pages(1);
}

static void map_image_part(const char *start, const char *end, unsigned flags)
{
    uint64_t a = (uintptr_t)start;
    vm_map_or_panic(a, a, align_up((uintptr_t)end, PAGE_SIZE), flags);
}

void vm_init(void)
{
    if (cpuid(0x80000001, 0).d & 1u << 26)
        vm_largest_level = 2;
    vm_root = vm_table_alloc();
    map_image_part(__image_start, __text_end, VM_EXEC);
    map_image_part(__rodata_start, __rodata_end, 0);
    map_image_part(__data_start, __image_end, VM_WRITE);
    vm_guard((uintptr_t)trap_guard, true);
    vm_guard((uintptr_t)boot_guard, true);
    vm_map_ram((uintptr_t)__image_start, (uintptr_t)__image_end);
    write_cr3(vm_root);
    if (cpuid(0, 0).a >= 7) {
        uint32_t b = cpuid(7, 0).b;
        uint64_t cr4 = read_cr4();
        write_cr4(cr4 | (b & 1u << 7 ? 1u << 20 : 0) | (b & 1u << 20 ? 1u << 21 : 0));
    }
}
