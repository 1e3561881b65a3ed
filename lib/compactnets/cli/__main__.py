from compactnets.cli import app

app()
