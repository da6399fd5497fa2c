/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Switching off, and the button that asks for it.
 *
 * Clean: ACPI's S5 (PM1a control on q35 and pc, the sleep register on microvm); without ACPI, or
 * when that had no effect, a reset: keyboard controller, then a triple fault. QEMU with -no-reboot
 * turns the reset into an exit with status 0. Other statuses go through isa-debug-exit, which makes
 * (value << 1) | 1 of them; without that device they end like a clean power-off.
 */
#include "board/pc/pc.h"
#include "boot/x86_64/cpu.h"
#include "kernel/board.h"
#include "kernel/irq.h"
#include "kernel/log.h"

enum { DEBUG_EXIT_PORT = 0xf4, KEYBOARD_PORT = 0x64, KEYBOARD_RESET = 0xfe };
enum { PM1_POWER_BUTTON = 1 << 8, PM1_SLEEP_ENABLE = 1 << 13, PM1_SLEEP_TYPE = 10 };
#define S5_READS 200000u
enum { SLEEP_ENABLE = 1 << 5, SLEEP_TYPE = 2 }; /* sleep control register */
enum { GED_POWER_DOWN = 1 << 1 };

static volatile uint8_t *sleep_register, *reset_register;
static volatile uint32_t *ged_register;
static struct irq power_irq;

static void write_register(const struct acpi_register *r, volatile uint8_t *mapped, uint8_t v)
{
    if (r->io)
        outb((uint16_t)r->address, v);
    else if (mapped)
        *mapped = v;
}

/* Does not return at once: a chip set takes its time, and a reset that overtook it would win. Port
 * reads take about a microsecond each, whatever the processor's speed. */
static void enter_s5(void)
{
    if (!pc_acpi.s5)
        return;
    if (pc_acpi.sleep_control.address)
        write_register(&pc_acpi.sleep_control, sleep_register,
                       (uint8_t)(pc_acpi.s5_a << SLEEP_TYPE | SLEEP_ENABLE));
    if (pc_acpi.pm1a_cnt) {
        unsigned keep = inw(pc_acpi.pm1a_cnt) & ~(7u << PM1_SLEEP_TYPE);
        outw(pc_acpi.pm1a_cnt,
             (uint16_t)(keep | (unsigned)pc_acpi.s5_a << PM1_SLEEP_TYPE | PM1_SLEEP_ENABLE));
    }
    if (pc_acpi.pm1b_cnt)
        outw(pc_acpi.pm1b_cnt,
             (uint16_t)((unsigned)pc_acpi.s5_b << PM1_SLEEP_TYPE | PM1_SLEEP_ENABLE));
    for (unsigned i = 0; i < S5_READS; i++)
        inb(KEYBOARD_PORT);
}

static void reset(void)
{
    if (pc_acpi.reset.address)
        write_register(&pc_acpi.reset, reset_register, pc_acpi.reset_value);
    outb(KEYBOARD_PORT, KEYBOARD_RESET);
    struct gdt_pointer none = {0, 0};
    __asm__ volatile("lidt %0; int3" : : "m"(none));
}

NORETURN void board_exit(enum board_exit how)
{
    if (how != BOARD_EXIT_CLEAN)
        outb(DEBUG_EXIT_PORT, (uint8_t)how);
    enter_s5();
    reset();
    for (;;)
        __asm__ volatile("cli; hlt");
}

static volatile void *map_register(const struct acpi_register *r)
{
    return r->address && !r->io ? mmio_map(r->address, 4) : NULL;
}

void power_init(void)
{
    sleep_register = map_register(&pc_acpi.sleep_control);
    reset_register = map_register(&pc_acpi.reset);
    if (pc_acpi.pm1a_evt && pc_acpi.pm1_evt_len >= 4) {
        uint16_t enable = (uint16_t)(pc_acpi.pm1a_evt + pc_acpi.pm1_evt_len / 2);
        outw(pc_acpi.pm1a_evt, PM1_POWER_BUTTON);
        outw(enable, PM1_POWER_BUTTON);
        unsigned sci = pc_acpi.sci;
        bool level = true, low = true; /* ACPI 5.2.9: unless an override says otherwise */
        if (sci < ARRAY_LEN(pc_acpi.isa_irq) && pc_acpi.isa_irq[sci].set) {
            level = pc_acpi.isa_irq[sci].level;
            low = pc_acpi.isa_irq[sci].low;
            sci = pc_acpi.isa_irq[sci].gsi;
        }
        irq_alloc(&power_irq, 0);
        irq_route_gsi(&power_irq, sci, level, low);
    } else if (pc_acpi.ged.base) {
        ged_register = mmio_map(pc_acpi.ged.base, 4);
        irq_alloc(&power_irq, 0);
        irq_route_gsi(&power_irq, pc_acpi.ged.gsi, pc_acpi.ged.level, pc_acpi.ged.low);
    }
}

bool board_has_power_button(void)
{
    return ged_register || pc_acpi.pm1a_evt;
}

bool board_power_button(void)
{
    if (ged_register)
        return *ged_register & GED_POWER_DOWN; /* reading clears it */
    if (!pc_acpi.pm1a_evt || !(inw(pc_acpi.pm1a_evt) & PM1_POWER_BUTTON))
        return false;
    outw(pc_acpi.pm1a_evt, PM1_POWER_BUTTON);
    return true;
}
