/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Time: the time-stamp counter, which starts at reset, and the local APIC's timer to sleep by.
 *
 *     board_clock_ns() = tsc * ns_mult >> 32
 *
 * Rates, best source first:
 *   1. CPUID leaf 0x15 (crystal and ratio), or the hypervisors' timing leaf 0x40000010;
 *   2. under TCG and KVM the APIC timer counts nanoseconds by definition: the TSC against it;
 *   3. both against the ACPI timer (3.579545 MHz) or the 8254 (1.193182 MHz);
 *   4. nothing there: 1 GHz is assumed, and said.
 * The measurement runs beside the other start-up work: clock_begin takes a sample, clock_end the
 * next after CALIBRATION_NS at least, which the ACPI tables nearly fill. A longer window would be
 * more exact; sleeping does not depend on it, because who wakes looks at the clock again.
 *
 * The timer is lazy: an earlier alarm that is still set is left alone and costs one early return.
 */
#include "boot/arch.h"
#include "boot/x86_64/cpu.h"
#include "kernel/board.h"
#include "kernel/log.h"

#define GHZ            1000000000ull
#define CALIBRATION_NS 500000ull
#define PM_TIMER_HZ    3579545ull
#define PIT_HZ         1193182ull
#define HV_LEAF        0x40000000u
#define HV_TIMING_LEAF 0x40000010u
#define TICKS_MAX      0xffffffffull

/* Before the calibration time is as on 8 GHz: too slow, so that it never jumps back. */
static uint64_t ns_mult = 1ull << 29, tsc_mult = 1ull << 32, lapic_mult = 1ull << 32;
static uint64_t tsc_hz, lapic_hz;
static uint64_t armed_ns;
static bool lapic_is_ns;
static struct sample {
    uint64_t tsc;
    uint32_t lapic;
} first;

static uint64_t scale(uint64_t v, uint64_t mult)
{
    return (uint64_t)((unsigned __int128)v * mult >> 32);
}

/* (to / from) as a 32.32 multiplier. */
static uint64_t ratio(uint64_t to, uint64_t from)
{
    return (uint64_t)(((unsigned __int128)to << 32) / from);
}

uint64_t board_clock_ns(void)
{
    return scale(arch_cycles(), ns_mult);
}

static bool hypervisor_is(const char *name)
{
    if (!(cpuid(1, 0).c & 1u << 31))
        return false;
    struct cpuid l = cpuid(HV_LEAF, 0);
    uint32_t text[3] = {l.b, l.c, l.d};
    return !__builtin_memcmp(text, name, sizeof(text));
}

static void rates_from_cpuid(void)
{
    uint32_t top = cpuid(0, 0).a;
    struct cpuid l = top >= 0x15 ? cpuid(0x15, 0) : (struct cpuid){0};
    if (l.a && l.b && l.c) {
        lapic_hz = l.c;
        tsc_hz = (uint64_t)l.c * l.b / l.a;
    }
    if (cpuid(1, 0).c & 1u << 31 && cpuid(HV_LEAF, 0).a >= HV_TIMING_LEAF) {
        l = cpuid(HV_TIMING_LEAF, 0);
        if (l.a && l.b) {
            tsc_hz = l.a * 1000ull;
            lapic_hz = l.b * 1000ull;
        }
    }
    lapic_is_ns = hypervisor_is("TCGTCGTCGTCG") || hypervisor_is("KVMKVMKVM\0\0");
    if (lapic_is_ns)
        lapic_hz = GHZ;
}

/* The TSC read next to the APIC timer: of three tries the one that took the least time. */
static struct sample take_sample(void)
{
    struct sample best = {0};
    uint64_t best_gap = UINT64_MAX;
    for (int i = 0; i < 3; i++) {
        uint64_t before = arch_cycles();
        uint32_t lapic = lapic_timer_read();
        uint64_t gap = arch_cycles() - before;
        if (gap < best_gap) {
            best = (struct sample){before + gap / 2, lapic};
            best_gap = gap;
        }
    }
    return best;
}

void clock_begin(void)
{
    rates_from_cpuid();
    first = take_sample();
}

static uint32_t read_pit(void)
{
    outb(0x43, 0); /* latch channel 0; it counts down from 65536, by 1 (mode 2) */
    uint32_t lo = inb(0x40);
    return 0xffff - (lo | (uint32_t)inb(0x40) << 8);
}

/* Both rates against a counter of known speed, over about a millisecond. The samples that count are
 * taken inside the loop, after its first turn: under an emulator first turns are slow. */
static void calibrate_against(uint64_t hz, uint32_t mask, uint32_t (*read)(uint16_t), uint16_t port)
{
    uint32_t want = (uint32_t)(hz / 1000), start = 0, passed = 0;
    struct sample a = {0}, b = {0};
    for (uint64_t turn = 0; passed < want; turn++) {
        uint32_t now = read(port);
        b = take_sample();
        if (turn < 2) {
            start = now;
            a = b;
        }
        passed = (now - start) & mask;
        if (turn == 10000)
            return; /* it stands still: not there */
    }
    tsc_hz = (b.tsc - a.tsc) * hz / passed;
    if (!lapic_hz)
        lapic_hz = (uint64_t)(uint32_t)(a.lapic - b.lapic) * hz / passed;
}

static uint32_t pm_read(uint16_t port)
{
    return inl(port);
}
static uint32_t pit_read(uint16_t port)
{
    (void)port;
    return read_pit();
}

static void calibrate_against_lapic(void)
{
    struct sample now;
    uint64_t passed;
    do {
        now = take_sample();
        passed = (uint32_t)(first.lapic - now.lapic);
    } while (passed < CALIBRATION_NS && now.lapic);
    if (passed)
        tsc_hz = (uint64_t)((unsigned __int128)(now.tsc - first.tsc) * GHZ / passed);
}

void clock_end(uint16_t pm_timer)
{
    if (!tsc_hz && lapic_is_ns)
        calibrate_against_lapic();
    if ((!tsc_hz || !lapic_hz) && pm_timer)
        calibrate_against(PM_TIMER_HZ, 0xffffff, pm_read, pm_timer);
    if (!tsc_hz || !lapic_hz) {
        outb(0x43, 0x34);
        outb(0x40, 0);
        outb(0x40, 0);
        calibrate_against(PIT_HZ, 0xffff, pit_read, 0);
    }
    bool guess = !tsc_hz || !lapic_hz;
    tsc_hz = tsc_hz ? tsc_hz : GHZ;
    lapic_hz = lapic_hz ? lapic_hz : GHZ;
    ns_mult = ratio(GHZ, tsc_hz);
    tsc_mult = ratio(tsc_hz, GHZ);
    lapic_mult = ratio(lapic_hz, GHZ);
    if (guess)
        log_line("clock", "no clock of known speed: 1 GHz assumed");
}

static void set_alarm(uint64_t now, uint64_t deadline_ns)
{
    armed_ns = deadline_ns;
    if (lapic_has_tsc_deadline()) {
        lapic_tsc_deadline(scale(deadline_ns, tsc_mult));
        return;
    }
    uint64_t ns = MIN(deadline_ns - now, 4 * GHZ);
    lapic_timer_start((uint32_t)MIN(scale(ns, lapic_mult) + 1, TICKS_MAX));
}

void board_idle(uint64_t deadline_ns)
{
    if (deadline_ns != UINT64_MAX && (!lapic_timer_armed || deadline_ns < armed_ns)) {
        uint64_t now = board_clock_ns();
        if (deadline_ns <= now)
            return;
        set_alarm(now, deadline_ns);
    }
    __asm__ volatile("sti; hlt; cli" : : : "memory");
}

void board_turn(void)
{
}
