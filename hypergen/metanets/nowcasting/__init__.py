"""Nowcasting: parameters some training steps ahead, from their history."""
