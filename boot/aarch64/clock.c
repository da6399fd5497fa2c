/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Time: the virtual counter, whose rate the firmware tells, and its timer to sleep by.
 *
 *     board_clock_ns() = ticks * ns_mult >> 32
 *
 * Sleep. Interrupts stay masked for ever: `wfi` ends when one is pending, masked or not. So there
 * is no window between the last look at the rings and the sleep, no handler, and what woke us is
 * acknowledged afterwards in plain code. A level-triggered line that its driver has not served yet
 * ends the next sleep at once, and cannot storm.
 *
 * Source: Arm ARM D12 (generic timer), D1.7.1 (wake-up events of WFI).
 */
#include "boot/arch.h"
#include "boot/aarch64/cpu.h"
#include "boot/aarch64/gic.h"
#include "kernel/board.h"
#include "kernel/log.h"

#define GHZ        1000000000ull
#define HZ_DEFAULT 62500000u /* when the firmware has not set CNTFRQ */

enum { TIMER_OFF = 0, TIMER_ON = 1 };

static uint64_t ns_mult, tick_mult;

/* (to / from) as a 32.32 multiplier. */
static uint64_t ratio(uint64_t to, uint64_t from)
{
    return (uint64_t)(((unsigned __int128)to << 32) / from);
}

static uint64_t scale(uint64_t v, uint64_t mult)
{
    return (uint64_t)((unsigned __int128)v * mult >> 32);
}

static void find_rate(void)
{
    uint64_t hz = READ_SYSREG("cntfrq_el0") & UINT32_MAX;
    if (!hz)
        hz = HZ_DEFAULT;
    ns_mult = ratio(GHZ, hz);
    tick_mult = ratio(hz, GHZ);
}

uint64_t board_clock_ns(void)
{
    if (unlikely(!ns_mult))
        find_rate();
    isb(); /* Arm ARM D12.2.2: the counter may be read early */
    return scale(arch_cycles(), ns_mult);
}

void clock_init(unsigned intid)
{
    WRITE_SYSREG("cntv_ctl_el0", TIMER_OFF);
    if (gic_present())
        gic_enable(intid, true);
    else
        log_line("irq", "no interrupt controller: the processor never sleeps");
}

void board_idle(uint64_t deadline_ns)
{
    if (!gic_present())
        return;
    if (deadline_ns != UINT64_MAX) {
        if (deadline_ns <= board_clock_ns())
            return;
        WRITE_SYSREG("cntv_cval_el0", scale(deadline_ns, tick_mult) + 1);
        WRITE_SYSREG("cntv_ctl_el0", TIMER_ON);
        isb();
    }
    __asm__ volatile("dsb sy; wfi" : : : "memory");
    WRITE_SYSREG("cntv_ctl_el0", TIMER_OFF);
    isb();
    gic_acknowledge();
}

void board_turn(void)
{
}
