/** The library's button and anchor as links of the router: typed addresses, preloaded when pointed at. */
import { Anchor, Button, Menu, type AnchorProps, type ButtonProps, type MenuItemProps } from '@mantine/core'
import { createLink } from '@tanstack/react-router'
import { forwardRef, type ReactNode } from 'react'

const PlainAnchor = forwardRef<HTMLAnchorElement, AnchorProps & { children?: ReactNode }>((props, ref) => (
  <Anchor ref={ref} {...props} />
))
const PlainButton = forwardRef<HTMLAnchorElement, ButtonProps & { children?: ReactNode }>((props, ref) => (
  <Button ref={ref} component="a" {...props} />
))
const PlainItem = forwardRef<HTMLAnchorElement, MenuItemProps & { children?: ReactNode }>((props, ref) => (
  <Menu.Item ref={ref} component="a" {...props} />
))

export const TextLink = createLink(PlainAnchor)
export const ButtonLink = createLink(PlainButton)
export const MenuLink = createLink(PlainItem)
