/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The last steps of every start, once RAM is known: the stack of main, the final page tables. The
 * stack is 64 KiB of the linear map above a guard page: DMA may go to it, overflowing it faults.
 */
#include "boot/boot.h"
#include "boot/arch.h"
#include "boot/vm.h"
#include "kernel/board.h"
#include "kernel/page.h"

#define BOOT_STACK_PAGES 16u

struct boot_info boot_info;
static void *main_stack_top;

void boot_map_memory(void)
{
    uint64_t stack = memory_early_pages(BOOT_STACK_PAGES + 1);
    vm_init();
    vm_guard(stack + ARCH_LINEAR_BASE, true);
    main_stack_top = phys_to_linear(stack + (BOOT_STACK_PAGES + 1) * PAGE_SIZE);
}

bool board_module(unsigned n, const void **data, size_t *len)
{
    if (n >= boot_info.module_count)
        return false;
    const struct phys_range *m = &boot_info.module[n];
    *len = m->end - m->base;
    *data = phys_window(m->base, *len);
    return *data != NULL;
}

static NORETURN void enter(const void *cmdline)
{
    strongroom_main(cmdline);
}

NORETURN void boot_enter_main(const char *cmdline)
{
    stack_jump(main_stack_top, enter, cmdline);
}
