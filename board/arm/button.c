/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The power button: a key on a PL061 (DDI 0190), or ACPI's generic event device. Both remember an
 * event until it is asked for, and the main coroutine asks four times a second: no interrupt.
 */
#include "board/arm/arm.h"
#include "kernel/board.h"

enum {
    GPIO_DIRECTION = 0x400,
    GPIO_SENSE = 0x404, /* 0: edges */
    GPIO_BOTH_EDGES = 0x408,
    GPIO_RISING = 0x40c,
    GPIO_RAW = 0x414,
    GPIO_CLEAR = 0x41c,
    GPIO_SPAN = 0x1000
};
enum { GED_POWER_DOWN = 1 << 1 };

static volatile uint8_t *gpio;
static volatile uint32_t *event_register;
static uint32_t key;

static volatile uint32_t *gpio_register(unsigned off)
{
    return (volatile uint32_t *)(volatile void *)(gpio + off);
}

void button_init(const struct machine *m)
{
    if (m->button.ged)
        event_register = mmio_map(m->button.ged, sizeof(*event_register));
    gpio = m->button.pl061 ? mmio_map(m->button.pl061, GPIO_SPAN) : NULL;
    if (!gpio)
        return;
    key = 1u << m->button.line;
    *gpio_register(GPIO_DIRECTION) &= ~key;
    *gpio_register(GPIO_SENSE) &= ~key;
    *gpio_register(GPIO_BOTH_EDGES) &= ~key;
    *gpio_register(GPIO_RISING) |= key;
    *gpio_register(GPIO_CLEAR) = key;
}

bool board_has_power_button(void)
{
    return gpio || event_register;
}

bool board_power_button(void)
{
    if (event_register && *event_register & GED_POWER_DOWN) /* reading clears it */
        return true;
    if (!gpio || !(*gpio_register(GPIO_RAW) & key))
        return false;
    *gpio_register(GPIO_CLEAR) = key;
    return true;
}
